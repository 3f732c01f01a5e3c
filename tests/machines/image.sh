# shellcheck shell=bash
# Makes the disk of an installed system: image.sh DIRECTORY_OF_RELEASE LAYER
# Called in a mount namespace of its own. In LAYER/machine: disk, kernel and initrd.
set -eu
release=$1
layer=$2
root=$layer/root
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$release/root,upperdir=$layer/upper,workdir=$layer/work" "$root"
kernel=$(find "$root/boot" -name 'vmlinuz-*' -printf '%f\n' | sed 's/^vmlinuz-//' | sort -V | tail -n 1)
# The modules of the disk alone: the distribution's own initrd has hundreds.
conf=/tmp/initramfs
cp -R "$root/etc/initramfs-tools" "$root$conf"
printf 'MODULES=list\nCOMPRESS=gzip\n' >"$root$conf/conf.d/machine"
printf '%s\n' virtio_pci virtio_blk ext4 crc32c_generic >"$root$conf/modules"
mount -t proc proc "$root/proc"
chroot "$root" mkinitramfs -d "$conf" -o /tmp/initrd "$kernel"
umount "$root/proc"
mv "$root/tmp/initrd" "$layer/machine/initrd"
rm -rf "${root:?}$conf"
cp "$root/boot/vmlinuz-$kernel" "$layer/machine/kernel"
rm -f "$layer/machine/disk"
truncate -s 6G "$layer/machine/disk"
mke2fs -q -t ext4 -E lazy_itable_init=1 -d "$root" "$layer/machine/disk"
umount "$root"
