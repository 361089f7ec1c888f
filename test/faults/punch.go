package faults

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// punch makes a range read as zeros, without blocks where the file system can
// (fallocate(2)).
func punch(f *os.File, off, length int64) error {
	if length == 0 {
		return nil
	}
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
	if !errors.Is(err, unix.EOPNOTSUPP) {
		if err != nil {
			err = fmt.Errorf("zero %d bytes at %d: %w", length, off, err)
		}
		return err
	}
	zero := make([]byte, min(length, 1<<20))
	for end := off + length; off < end; off += int64(len(zero)) {
		if _, err := f.WriteAt(zero[:min(int64(len(zero)), end-off)], off); err != nil {
			return err
		}
	}
	return nil
}
