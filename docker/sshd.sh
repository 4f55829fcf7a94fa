#!/usr/bin/env bash
# Lets the first machine of a hostfile start ranks in this container: an SSH server for this user, with keys alone.
# Usage: docker/sshd.sh [PORT]. /ssh holds id_ed25519 and authorized_keys, the same on all machines (docker/README.md).
set -euo pipefail

port="${1:-2222}"
for name in authorized_keys id_ed25519; do
    test -r "/ssh/$name" || {
        echo "error: /ssh/$name is missing or not readable for $(id -un); docker/README.md says how to make and mount it" >&2
        exit 2
    }
done
mkdir -p "$HOME/.ssh"
install -m 600 /ssh/* "$HOME/.ssh/"
test -f "$HOME/.ssh/host_key" || ssh-keygen -q -t ed25519 -N "" -f "$HOME/.ssh/host_key"
# The path of the image: with that of a login, DeepSpeed would find neither ninja nor nvcc.
exec /usr/sbin/sshd -f /dev/null -D -e -p "$port" -h "$HOME/.ssh/host_key" -o "SetEnv=PATH=$PATH" \
    -o PidFile=none -o UsePAM=no -o StrictModes=no -o PasswordAuthentication=no -o KbdInteractiveAuthentication=no
