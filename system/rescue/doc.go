// Package rescue is a shell that needs no other program: mvdan.cc/sh reads and
// runs the lines, u-root's core packages are the common commands, and a few of
// ours on the same interface know disks, modules and the machine's end. It is
// what stage 1 offers when it cannot go on, and in a running system each
// command is "joist-init rescue NAME".
//
// The commands run as goroutines of the shell, so that they work as PID 1 of
// an initramfs that holds nothing but this program.
package rescue
