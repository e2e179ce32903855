# bash completion for breakglass-pve
_breakglass_pve() {
    local word=${COMP_WORDS[COMP_CWORD]}
    if [ "$COMP_CWORD" -eq 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W '@COMMANDS@' -- "$word")
    elif [ "${word#-}" != "$word" ]; then
        mapfile -t COMPREPLY < <(compgen -W "$(breakglass-pve "${COMP_WORDS[1]}" --help | grep -o -- '--[a-z-]*')" -- "$word")
    else
        mapfile -t COMPREPLY < <(compgen -W "$(timeout -s KILL 1 ls /etc/pve/qemu-server 2>/dev/null | sed -n 's/\.conf$//p')" -- "$word")
    fi
}
complete -F _breakglass_pve breakglass-pve
