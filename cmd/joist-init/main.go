// Command joist-init is the program behind three names: /init of the
// initramfs (stage 1), /sbin/init of the system image (PID 1) and a small
// tool that talks to the latter or helps in the rescue system (tool.go).
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"joist/system/pid1"
	"joist/system/stage1"
)

func main() {
	switch {
	case stage1.Applies():
		stage1.Main()
	case os.Getpid() == 1:
		pid1.Main()
	}
	if err := tool(os.Args); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(os.Args[0]), err)
		os.Exit(1)
	}
}
