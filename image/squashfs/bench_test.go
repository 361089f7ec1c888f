package squashfs

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"joist/rootfs/tree"
)

// benchTree is the folder that BenchmarkWrite packs; JOIST_BENCH_TREE names
// another, an unpacked system for the figures of the product.
const benchTree = "/usr/bin"

// userTime is the processor time of this process in user mode.
func userTime(b *testing.B) time.Duration {
	b.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano())
}

// BenchmarkWrite compares size and user time with mksquashfs on the same tree.
func BenchmarkWrite(b *testing.B) {
	dir := benchTree
	if d := os.Getenv("JOIST_BENCH_TREE"); d != "" {
		dir = d
	}
	root := fromDir(b, dir)
	for _, level := range []int{3, 9, 15} {
		b.Run(fmt.Sprintf("level=%d", level), func(b *testing.B) {
			theirs, cpu := mksquashfs(b, dir, level)
			var st Stats
			start := userTime(b)
			for b.Loop() {
				st = writeOnce(b, root, Options{Level: level})
			}
			ours := (userTime(b) - start) / time.Duration(b.N)
			mb := float64(st.Content) / 1e6
			b.ReportMetric(mb/ours.Seconds(), "MB/s/core")
			b.ReportMetric(mb/cpu.Seconds(), "mksquashfs-MB/s/core")
			b.ReportMetric(float64(st.Size)/1e6, "MB")
			b.ReportMetric(float64(st.Size)/float64(theirs), "size/mksquashfs")
			b.ReportMetric(ours.Seconds()/cpu.Seconds(), "cpu/mksquashfs")
		})
	}
}

func writeOnce(b *testing.B, root *tree.Node, o Options) Stats {
	b.Helper()
	f, err := os.Create(filepath.Join(b.TempDir(), "image.sqfs"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	st, err := Write(context.Background(), f, root, o)
	if err != nil {
		b.Fatal(err)
	}
	return st
}

func mksquashfs(b *testing.B, dir string, level int) (size int64, cpu time.Duration) {
	b.Helper()
	out := filepath.Join(b.TempDir(), "theirs.sqfs")
	c := exec.Command(tool(b, "mksquashfs"), dir, out, "-comp", "zstd", "-Xcompression-level", strconv.Itoa(level),
		"-b", strconv.Itoa(DefaultBlockSize), "-noappend", "-no-progress", "-quiet")
	if msg, err := c.CombinedOutput(); err != nil {
		b.Fatalf("mksquashfs: %v\n%s", err, msg)
	}
	st, err := os.Stat(out)
	if err != nil {
		b.Fatal(err)
	}
	return st.Size(), c.ProcessState.UserTime()
}
