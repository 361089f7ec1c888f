// Package image turns disk images that people bring into volumes of ours.
//
// The format of an image is what its owner declared, never what its bytes look
// like: a guest can write any header into a raw disk. A declared qcow2 or VMDK
// is read here before qemu-img sees it, and one that names another file (a
// backing file, a data file, an extent) is refused, because that file would be
// the host's. qemu-img then runs without any privilege, with the two files as
// descriptors and no others. Raw images are copied here.
package image
