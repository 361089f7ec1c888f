// Command empty is a PID 1 that says when it was reached, in seconds since the
// kernel's start, and switches the machine off. It is what a node's own start
// is compared with.
package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

func main() {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		fmt.Println(err)
	}
	fmt.Printf("\nEMPTY %.2f\n", float64(now.Nano())/1e9)
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Println(err)
	}
	select {}
}
