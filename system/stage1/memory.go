package stage1

import (
	"fmt"
	"strconv"
	"strings"
)

// memoryValue reads proc_meminfo(5), where sizes are in units of 1024 bytes.
func memoryValue(text, name string) (int64, error) {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == name+":" {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read %s: %w", name, err)
			}
			return n * 1024, nil
		}
	}
	return 0, fmt.Errorf("read %s: /proc/meminfo has none", name)
}
