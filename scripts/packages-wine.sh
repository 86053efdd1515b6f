#!/bin/bash
# The part of scripts/packages.sh that runs in the chroot with Wine: the life of the msi.
# /mnt holds the packages, by version.
#
#   packages-wine.sh SECONDS
end=$1 # of SECONDS
. /mnt/wine.sh
# shellcheck disable=SC2034  # of thrice: a story takes so long
least=200
thrice "msi" whole packages-msi.sh
[ -s /mnt/out/untested ] || [ $failed != 0 ] || echo "packages: the msi passed under Wine, $SECONDS s"
exit $failed
