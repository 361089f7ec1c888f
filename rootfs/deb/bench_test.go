package deb

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	therootxz "github.com/therootcompany/xz"
	"github.com/ulikunitz/xz"
)

// benchIndex is an unpacked index of the size of trixie's, as text and packed.
// JOIST_BENCH_INDEX names a real Packages.xz.
func benchIndex(b *testing.B) (packed []byte, wants []string) {
	b.Helper()
	if name := os.Getenv("JOIST_BENCH_INDEX"); name != "" {
		packed, err := os.ReadFile(name)
		if err != nil {
			b.Fatal(err)
		}
		return packed, []string{"base-files", "bash", "coreutils", "qemu-system-x86", "lxc", "lvm2", "gcc", "grub-pc-bin", "openssh-server", "chrony"}
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	var text bytes.Buffer
	for i := range 69_000 {
		fmt.Fprintf(&text, "Package: package-%d\nVersion: 1:%d.%d-%d+deb13u1\nInstalled-Size: %d\nMaintainer: Somebody <somebody@archive.example>\nArchitecture: amd64\nDepends: package-%d (>= 1), package-%d | package-%d\n"+
			"Description: %x\nHomepage: https://archive.example/%x\nSection: devel\nPriority: optional\nFilename: pool/main/p/package-%d/package-%d_1.deb\nSize: %d\nSHA256: %064x\nTag: %s\n\n",
			i, i%9, i%7, i%5, i*3, max(0, i-1-rnd.IntN(100)), i/2, i/3, rnd.Uint64(), rnd.Uint64(), i, i, i+1, i, strings.Repeat("role::program, ", 20))
	}
	var out bytes.Buffer
	z, err := xz.NewWriter(&out)
	if err != nil {
		b.Fatal(err)
	}
	z.Write(text.Bytes())
	z.Close()
	return out.Bytes(), []string{"package-68999", "package-50000", "package-60001"}
}

// cpuTime is the processor time of this process.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkIndex unpacks and parses an index and resolves a closure from it.
func BenchmarkIndex(b *testing.B) {
	packed, wants := benchIndex(b)
	runtime.GC()
	var read, resolve time.Duration
	packages := 0
	start := cpuTime(b)
	for b.Loop() {
		begin := time.Now()
		z, err := therootxz.NewReader(bytes.NewReader(packed), 0)
		if err != nil {
			b.Fatal(err)
		}
		list, err := ReadIndex(z, maxIndex, "trixie", "main")
		if err != nil {
			b.Fatal(err)
		}
		ix, err := NewIndex(list)
		if err != nil {
			b.Fatal(err)
		}
		parsed := time.Now()
		ps, fl := Closure(ix, wants, nil)
		if len(ps) < len(wants) {
			b.Fatal(fl)
		}
		packages = len(ps)
		read += parsed.Sub(begin)
		resolve += time.Since(parsed)
	}
	cpu := cpuTime(b) - start
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	n := float64(b.N)
	b.ReportMetric(read.Seconds()/n, "s-read")
	b.ReportMetric(cpu.Seconds()/n, "cpu-s")
	b.ReportMetric(resolve.Seconds()/n, "s-resolve")
	b.ReportMetric(float64(packages), "packages")
	b.ReportMetric(float64(r.Maxrss)/1e3, "MB-peak")
}
