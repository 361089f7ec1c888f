package answer

import (
	"bytes"
	"errors"
	"fmt"
)

// ProgramFile is the medium's file that [first-boot] source = "from-iso" means.
const ProgramFile = "first-boot"

// MaxProgram bounds it, in bytes.
const MaxProgram = 1 << 20

// CheckProgram says why the kernel could not run a program, nil if it can.
func CheckProgram(b []byte) error {
	switch {
	case len(b) == 0:
		return errors.New("it is empty")
	case len(b) > MaxProgram:
		return fmt.Errorf("it is larger than %d MiB", MaxProgram>>20)
	case bytes.HasPrefix(b, []byte("\x7fELF")):
		return nil
	case !bytes.HasPrefix(b, []byte("#!")):
		return errors.New("it is neither a script (its first line begins with #!) nor a program for Linux (ELF)")
	}
	first, _, _ := bytes.Cut(b, []byte("\n"))
	if words := bytes.Fields(first[2:]); len(words) == 0 || words[0][0] != '/' || bytes.HasSuffix(first, []byte("\r")) {
		return errors.New("its first line names no program with its whole path, like #!/bin/sh (or it ends lines as Windows does)")
	}
	return nil
}
