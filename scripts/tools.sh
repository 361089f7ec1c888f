#!/bin/bash
# Looks for the programs that the tests use; with the argument "bench" also for
# those that the benchmarks compare with. Missing ones are installed where
# that is allowed (root, or sudo without a password, with apt-get); elsewhere
# it says what to install.
set -euo pipefail

# program or file → Debian package
need=(
	qemu-system-x86_64:qemu-system-x86
	qemu-img:qemu-utils
	/usr/share/OVMF/OVMF_CODE_4M.secboot.fd:ovmf
	mcopy:mtools
	sgdisk:gdisk
	sfdisk:fdisk
	mkfs.fat:dosfstools
	mkntfs:ntfs-3g
	xorriso:xorriso
	isoinfo:genisoimage
	unsquashfs:squashfs-tools
	veritysetup:cryptsetup-bin
	swtpm:swtpm
	gcc:gcc
	openssl:openssl
	/usr/lib/ipxe/ipxe.iso:ipxe
	/usr/lib/ipxe/qemu/pxe-virtio.rom:ipxe-qemu
	/usr/lib/memtest86+/memtest86+x64.iso:memtest86+
)

if [[ ${1-} == bench ]]; then
	need+=(mmdebstrap:mmdebstrap mksquashfs:squashfs-tools)
fi

PATH=$PATH:/usr/sbin:/sbin
packages=()
for entry in "${need[@]}"; do
	what=${entry%%:*}
	if [[ $what == /* ]]; then
		[[ -e $what ]] && continue
	else
		command -v "$what" >/dev/null && continue
	fi
	packages+=("${entry##*:}")
done
((${#packages[@]})) || exit 0

as_root=()
if ((EUID != 0)); then
	as_root=(sudo -n)
	if ! sudo -n true 2>/dev/null; then
		echo "The tests need programs that are not here, and only root may install them: apt-get install ${packages[*]}" >&2
		exit 1
	fi
fi
if ! command -v apt-get >/dev/null; then
	echo "The tests need programs that are not here; install what Debian calls ${packages[*]}" >&2
	exit 1
fi
echo "installing ${packages[*]}"
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get -q update
"${as_root[@]}" apt-get -q install -y --no-install-recommends "${packages[@]}"
