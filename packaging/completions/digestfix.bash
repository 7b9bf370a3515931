# bash completion for digestfix                            -*- shell-script -*-
#
# The program itself prints the candidates, in the protocol of src/cli/completion.rs.

_digestfix() {
    local line=${COMP_LINE:0:COMP_POINT} word breaks= candidate index
    local -a words=()

    # Readline splits words at some of the characters in a reference (COMP_WORDBREAKS).
    # Parts without whitespace between them are joined to one word again.
    for ((index = 0; index <= COMP_CWORD; index++)); do
        word=${COMP_WORDS[index]}
        # Text after the cursor does not count.
        [[ $index == "$COMP_CWORD" && $line != *"$word"* ]] && word=$line
        if [[ $index == 0 || $line == [[:space:]]* ]]; then
            line=${line#"${line%%[![:space:]]*}"}
            [[ $index == "$COMP_CWORD" ]] && word=$line
            words+=("$word")
        else
            [[ $index == "$COMP_CWORD" ]] && word=$line
            words[${#words[@]} - 1]+=$word
        fi
        line=${line#"$word"}
    done
    word=${words[${#words[@]} - 1]}

    # bash replaces only the text after the last of these characters. In quotes, they do
    # not split.
    local quoted=
    case $word in
        [\'\"]*) word=${word:1} quoted=1 ;;
        *) for candidate in : = @; do
            [[ $COMP_WORDBREAKS == *"$candidate"* ]] && breaks+=$candidate
        done ;;
    esac
    words[${#words[@]} - 1]=$word
    local prefix=
    [[ $breaks ]] && prefix=${word%"${word##*["$breaks"]}"}

    COMPREPLY=()
    while IFS= read -r -d $'\v' candidate; do
        candidate=${candidate#"$prefix"}
        # A file name may contain characters that the shell would execute.
        if [[ $candidate == *[!A-Za-z0-9_.,:=@%/+~-]* ]]; then
            [[ $quoted ]] && continue
            printf -v candidate %q "$candidate"
        fi
        COMPREPLY+=("$candidate")
    done < <(
        _DIGESTFIX_COMPLETE=bash _CLAP_IFS=$'\v' _CLAP_COMPLETE_INDEX=$((${#words[@]} - 1)) \
            digestfix -- "${words[@]}" 2>/dev/null
        printf '\v'
    )
    # A lone separator means that there is no candidate.
    [[ ${#COMPREPLY[@]} == 1 && -z ${COMPREPLY[0]} ]] && COMPREPLY=()
    # The name is unfinished, so no space follows it.
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[=:@/] ]] && compopt -o nospace
    return 0
}

complete -o nosort -F _digestfix digestfix 2>/dev/null || complete -F _digestfix digestfix
