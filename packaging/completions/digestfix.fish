# fish completion for digestfix. The program itself prints the candidates, in the
# protocol of src/cli/completion.rs.
complete --keep-order --no-files --command digestfix \
    --arguments "(_DIGESTFIX_COMPLETE=fish digestfix -- (commandline --current-process --tokenize --cut-at-cursor) (commandline --current-token --cut-at-cursor) 2>/dev/null)"
