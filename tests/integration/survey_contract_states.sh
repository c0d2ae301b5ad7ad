#!/bin/sh
# Units and files in every state that matters to a survey; "make" creates them, "remove" takes them away.
set -eu
units=/etc/systemd/system
files=/run/onprem-gpu-contract

unit() { # name, then its sections
    name=$1
    shift
    printf '%s\n' "$@" >"$units/$name"
}

sleeping='[Service]
ExecStart=/bin/sleep infinity'
installed='[Install]
WantedBy=multi-user.target'

remove() {
    systemctl stop 'contract-*' 2>/dev/null || true
    systemctl reset-failed 'contract-*' 2>/dev/null || true
    find "$units" /run/systemd/system /run/systemd/transient -name 'contract-*' -exec rm -rf {} + 2>/dev/null || true
    systemctl daemon-reload
    rm -rf "$files"
}

make() {
    remove
    mkdir -p "$files" && cd "$files"
    for name in enabled disabled runtime masked failed; do
        unit "contract-$name.service" "$sleeping" "$installed"
    done
    unit contract-static.service "$sleeping"
    unit contract-alias.service "$sleeping" "$installed" 'Alias=contract-alias-name.service'
    unit contract-indirect.service "$sleeping" '[Install]' 'Also=contract-enabled.service'
    unit contract-failed.service '[Service]' 'ExecStart=/bin/false' "$installed"
    unit contract-oneshot.service '[Service]' 'Type=oneshot' 'RemainAfterExit=yes' 'ExecStart=/bin/true' "$installed"
    unit contract-timer.timer '[Timer]' 'OnActiveSec=1h' 'Unit=contract-static.service' "$installed"
    printf '%s\n' "$sleeping" "$installed" >contract-linked.service
    systemctl daemon-reload
    systemctl enable --now contract-enabled.service contract-alias.service contract-timer.timer
    systemctl enable --runtime contract-runtime.service
    systemctl link "$files/contract-linked.service"
    systemctl start contract-static.service contract-oneshot.service
    rm "$units/contract-masked.service" && systemctl mask contract-masked.service
    systemctl start contract-failed.service || true

    for name in right other-text other-mode other-owner; do
        printf 'the text\n' >"$name"
        chmod 0640 "$name"
    done
    printf 'other\n' >other-text
    chmod 0644 other-mode
    chown 65534 other-owner
    ln -s right symlink
    ln -s nowhere dangling
    printf 'the text' >no-newline
    chmod 0640 no-newline
}

"$1"
