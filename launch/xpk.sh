#!/usr/bin/env bash
# Installs xpk, through which `maxtext-sparse launch xpk` and `sweep submit` reach a cluster: bash launch/xpk.sh [FOLDER]
#
# xpk gets an environment of its own, by default .venv-xpk of this checkout. Installed beside MaxText, it would downgrade
# protobuf, pyyaml and others. To submit for real you also need gcloud, its gke-gcloud-auth-plugin and kubectl, and you
# must be logged in. A --dry-run needs none of them.
set -euo pipefail
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
folder="$(realpath -m "${1:-$repository/.venv-xpk}")"
cd "$repository"

python3.12 -m venv "$folder"
"$folder/bin/pip" install --quiet -c launch/constraints/xpk.txt xpk==1.16.0
echo "xpk is installed. Tell this shell where it is:"
echo "  export XPK=$folder/bin/xpk"
