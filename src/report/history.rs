//! The history, for people and for machines.

use std::path::PathBuf;

use crate::history::{Changed, Claimed, End, Kind, Record, Side};
use crate::report::Report;
use crate::report::document::TransactionDocument;
use crate::report::table::columns;

/// A transaction of the history, and what is known of it beside its record.
#[derive(Debug, Clone)]
pub struct Transaction {
    /// Its record.
    pub record: Record,
    /// What took it back.
    pub rolled_back_by: Option<String>,
    /// The store from before it, where that is still kept.
    pub backup: Option<PathBuf>,
}

impl Report {
    /// All transactions, in a line each.
    pub fn transactions(&mut self, transactions: Vec<Transaction>) {
        self.say_host();
        if transactions.is_empty() {
            self.say("No transaction is on record here.");
        } else {
            let titles = ["ID", "BEGAN", "BY", "WHAT", "RESULT"].map(str::to_owned);
            let lines = transactions.iter().map(Transaction::line);
            let lines: Vec<[String; 5]> = [titles].into_iter().chain(lines).collect();
            self.say(&columns(&lines));
        }
        let documents = transactions.into_iter().map(|one| one.document(false));
        self.document.transactions = Some(documents.collect());
    }

    /// All of one transaction.
    pub fn one_transaction(&mut self, transaction: Transaction) {
        for line in transaction.lines() {
            self.say(&line);
        }
        self.document.transactions = Some(vec![transaction.document(true)]);
    }
}

impl Transaction {
    fn line(&self) -> [String; 5] {
        let record = &self.record;
        let what = match record.changes.as_slice() {
            [] => "nothing".to_owned(),
            [
                Changed {
                    reference,
                    to: Some(_),
                    ..
                },
            ] => reference.familiar(),
            [Changed { reference, .. }] => format!("without {reference}"),
            several => format!("{} references", several.len()),
        };
        let what = match &record.kind {
            Kind::Apply => what,
            Kind::Rollback(of) => format!("{what}, taking back {of}"),
        };
        [
            record.id.clone(),
            record.began.clone(),
            record.by.clone(),
            what,
            self.result(),
        ]
    }

    /// In a few words.
    fn result(&self) -> String {
        let result = match &self.record.result {
            None => "has not ended",
            Some(End::Done) => "done",
            Some(End::Undone { .. }) => "failed, undone",
            Some(End::Incomplete { .. }) => "done, INCOMPLETE",
            Some(End::Broken { .. }) => "BROKEN",
            Some(End::Recovered { references }) => match references {
                Side::Old => "interrupted, not done",
                Side::New => "interrupted, done",
                Side::Other => "interrupted, changed since",
            },
        };
        match &self.rolled_back_by {
            Some(by) => format!("{result}; taken back by {by}"),
            None => result.to_owned(),
        }
    }

    fn lines(&self) -> Vec<String> {
        let record = &self.record;
        let result = match why(record) {
            Some(why) => format!("{}: {why}", self.result()),
            None => self.result(),
        };
        let backup = self.backup.as_ref().map(|path| path.display().to_string());
        let what = match &record.kind {
            Kind::Apply => "apply".to_owned(),
            Kind::Rollback(of) => format!("rollback of {of}"),
        };
        let ended = record.ended.clone().unwrap_or_else(|| "-".to_owned());
        let mut lines = vec![
            format!("Transaction {}, number {}", record.id, record.number),
            format!("  what     {what}"),
            format!("  by       {}", record.by),
            format!("  began    {}", record.began),
            format!("  ended    {ended}"),
            format!("  result   {result}"),
            format!("  driver   {}", record.driver),
            format!("  before   {}", record.before),
            format!("  after    {}", record.after),
            format!(
                "  backup   {}",
                backup.as_deref().unwrap_or("none (any more)")
            ),
        ];
        if !record.claims.is_empty() {
            lines.push("Claims:".to_owned());
        }
        for claim in &record.claims {
            lines.push(format!("  {}", claim.claim));
            lines.push(format!(
                "    {} is {}  ({}, {})",
                claim.reference, claim.image_id, claim.trust, claim.origin
            ));
        }
        lines.push("Changes:".to_owned());
        for change in &record.changes {
            let line = |sign, image| format!("{sign}   {}  {image}", change.reference);
            lines.extend(change.from.as_ref().map(|image| line('-', image.clone())));
            lines.extend(change.to.as_ref().map(|image| line('+', image.to_string())));
        }
        lines
    }

    fn document(self, whole: bool) -> TransactionDocument {
        let record = self.record;
        let why = why(&record).map(str::to_owned);
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
            result,
            why,
            references,
            backup: self.backup,
            changes: record.changes,
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
