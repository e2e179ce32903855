# bash completion for breakglass-pve
_breakglass_pve() {
    local word=${COMP_WORDS[COMP_CWORD]}
    if [ "$COMP_CWORD" -eq 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W '@COMMANDS@' -- "$word")
    elif [ "${word#-}" != "$word" ]; then
        mapfile -t COMPREPLY < <(compgen -W "$(breakglass-pve "${COMP_WORDS[1]}" --help | grep -o -- '--[a-z-]*')" -- "$word")
    else
        local found # read stops waiting for an ls that hangs with /etc/pve and can't be killed
        IFS='' read -r -d '' -t 1 found < <(ls /etc/pve/qemu-server 2>/dev/null)
        mapfile -t COMPREPLY < <(compgen -W "${found//.conf/}" -- "$word")
    fi
}
complete -F _breakglass_pve breakglass-pve
