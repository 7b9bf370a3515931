//! History, for people and for machines.

use std::path::PathBuf;

use crate::report::Report;
use crate::report::cut::{Cut, name};
use crate::report::document::{ChangedDocument, TransactionDocument};
use crate::report::table::{Widths, columns};
use crate::report::text::{Text, Tone};
use crate::state::history::{Claimed, End, Kind, Record, Side};
use crate::state::method::Method;

/// A transaction, with some facts that its record does not contain.
#[derive(Debug, Clone)]
pub struct Transaction {
    pub record: Record,
    pub rolled_back_by: Option<String>,
    /// The backup of the store before the transaction, if it still exists.
    pub backup: Option<PathBuf>,
}

impl Report {
    /// Writes one line for each transaction.
    pub fn transactions(&mut self, transactions: Vec<Transaction>) {
        self.say_host();
        if transactions.is_empty() {
            self.say("No transaction is on record here.");
        } else {
            let room = self.room();
            let names = transactions.iter().flat_map(Transaction::names);
            let lines = |cut| {
                let titles = ["ID", "BY", "WHAT", "RESULT"].map(|title| Tone::Strong.of(title));
                let lines = transactions.iter().map(|one| one.line(cut));
                [titles].into_iter().chain(lines).collect::<Vec<_>>()
            };
            let cut = Cut::for_room(room, names, |cut| Widths::of(&lines(cut)).all());
            self.say_all(columns(&lines(cut), room));
        }
        let documents = transactions.into_iter().map(|one| one.document(false));
        self.document.transactions = Some(documents.collect());
    }

    /// Writes all facts about one transaction.
    pub fn one_transaction(&mut self, transaction: Transaction) {
        self.say_all(transaction.lines());
        self.document.transactions = Some(vec![transaction.document(true)]);
    }
}

impl Transaction {
    /// The row of the transaction in the table. The ID of the transaction contains the
    /// time at which the transaction began.
    fn line(&self, cut: Cut) -> [Text; 4] {
        let record = &self.record;
        let result = match self.rolled_back_by {
            Some(_) => "rolled back",
            None => self.result(),
        };
        [
            (&record.id).into(),
            (&record.by).into(),
            self.what(cut).into(),
            self.tone().of(result),
        ]
    }

    /// The names that `what` may shorten.
    fn names(&self) -> Vec<String> {
        let record = &self.record;
        match (
            &record.kind,
            record.changes.as_slice(),
            record.entries.as_slice(),
        ) {
            (Kind::Rollback(of), _, _) => vec![of.clone()],
            (_, [one], []) => vec![name(&one.reference)],
            (_, [], [one]) => vec![one.key.clone()],
            _ => Vec::new(),
        }
    }

    fn what(&self, cut: Cut) -> String {
        let record = &self.record;
        if let Kind::Rollback(of) = &record.kind {
            return format!("undoes {}", cut.name(of));
        }
        let without = |is_gone, what: String| match is_gone {
            true => format!("without {what}"),
            false => what,
        };
        match (record.changes.as_slice(), record.entries.as_slice()) {
            ([], []) => "nothing".to_owned(),
            ([one], []) => without(one.to.is_none(), cut.reference(&one.reference)),
            ([], [one]) => without(one.to.is_none(), cut.name(&one.key)),
            (changes, entries) => format!("{} references", changes.len() + entries.len()),
        }
    }

    const fn tone(&self) -> Tone {
        match &self.record.result {
            Some(End::Done) => Tone::Good,
            Some(End::Incomplete { .. } | End::Broken { .. }) => Tone::Alarming,
            None | Some(End::Undone { .. } | End::Recovered { .. }) => Tone::Doubtful,
        }
    }

    /// The result in a few words.
    const fn result(&self) -> &'static str {
        match &self.record.result {
            None => "has not ended",
            Some(End::Done) => "done",
            Some(End::Undone { .. }) => "failed, undone",
            Some(End::Incomplete { .. }) => "done, INCOMPLETE",
            Some(End::Broken { .. }) => "BROKEN",
            Some(End::Recovered { references }) => match references {
                Side::Old => "interrupted, undone",
                Side::New => "interrupted, done",
                Side::Other => "interrupted, changed since",
            },
        }
    }

    fn lines(&self) -> Vec<Text> {
        let record = &self.record;
        let result = match &self.rolled_back_by {
            Some(by) => format!("{}; rolled back by {by}", self.result()),
            None => self.result().to_owned(),
        };
        let result = self.tone().of(result);
        let result = match why(record) {
            Some(why) => result.and(format!(": {why}")),
            None => result,
        };
        let backup = self.backup.as_ref().map(|path| path.display().to_string());
        let what = match &record.kind {
            Kind::Apply => "apply".to_owned(),
            Kind::Rollback(of) => format!("rollback of {of}"),
        };
        let ended = record.ended.clone().unwrap_or_else(|| "-".to_owned());
        let mut lines = vec![
            format!("Transaction {}, number {}", record.id, record.number).into(),
            format!("  what     {what}").into(),
            format!("  by       {}", record.by).into(),
            format!("  began    {}", record.began).into(),
            format!("  ended    {ended}").into(),
            Text::from("  result   ").and(result),
            format!("  driver   {}", record.driver).into(),
            format!("  before   {}", record.before).into(),
            format!("  after    {}", record.after).into(),
            match (record.method, backup) {
                (Some(Method::Load), _) => "  method   load".into(),
                (Some(Method::Record), _) => "  method   record".into(),
                (_, backup) => format!(
                    "  backup   {}",
                    backup.as_deref().unwrap_or("none, or no longer there")
                )
                .into(),
            },
        ];
        if !record.claims.is_empty() {
            lines.push("Claims:".into());
        }
        for claim in &record.claims {
            lines.push(format!("  {}", claim.claim).into());
            lines.push(
                format!(
                    "    {} is {}  ({}, {})",
                    claim.reference, claim.image_id, claim.trust, claim.origin
                )
                .into(),
            );
        }
        lines.push("Changes:".into());
        for change in ChangedDocument::all(record) {
            let reference = &change.reference;
            let from = change.from.map(|image| format!("-   {reference}  {image}"));
            let to = change.to.map(|image| format!("+   {reference}  {image}"));
            lines.extend(from.map(|line| Tone::Bad.of(line)));
            lines.extend(to.map(|line| Tone::Good.of(line)));
        }
        lines
    }

    fn document(self, whole: bool) -> TransactionDocument {
        let record = self.record;
        let why = why(&record).map(str::to_owned);
        let changes = ChangedDocument::all(&record);
        let (kind, rollback_of) = match record.kind {
            Kind::Apply => ("apply", None),
            Kind::Rollback(of) => ("rollback", Some(of)),
        };
        let (result, references) = match record.result {
            None => (None, None),
            Some(End::Done) => (Some("done"), None),
            Some(End::Undone { .. }) => (Some("undone"), None),
            Some(End::Incomplete { .. }) => (Some("incomplete"), None),
            Some(End::Broken { .. }) => (Some("broken"), None),
            Some(End::Recovered { references }) => (Some("recovered"), Some(references)),
        };
        let claims: Option<Vec<Claimed>> = whole.then_some(record.claims);
        TransactionDocument {
            id: record.id,
            number: record.number,
            began: record.began,
            ended: record.ended,
            by: record.by,
            kind,
            rollback_of,
            rolled_back_by: self.rolled_back_by,
            driver: record.driver,
            before: record.before.to_string(),
            after: record.after.to_string(),
            method: record.method.unwrap_or(Method::Restart),
            result,
            why,
            references,
            backup: self.backup,
            changes,
            claims,
        }
    }
}

fn why(record: &Record) -> Option<&str> {
    match &record.result {
        Some(End::Undone { why } | End::Incomplete { why } | End::Broken { why }) => Some(why),
        _ => None,
    }
}
