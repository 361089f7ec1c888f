package bench

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// usage is what a piece of work took.
type usage struct {
	wall, cpu time.Duration
	memory    int64 // bytes: the most that all its processes had at one time
	size      int64 // of what it made
}

// plus is one piece of work after the other.
func (u usage) plus(v usage) usage {
	return usage{u.wall + v.wall, u.cpu + v.cpu, max(u.memory, v.memory), v.size}
}

// median of each figure by itself.
func median(list []usage) usage {
	pick := func(f func(usage) int64) int64 {
		var v []int64
		for _, u := range list {
			v = append(v, f(u))
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	return usage{
		wall:   time.Duration(pick(func(u usage) int64 { return int64(u.wall) })),
		cpu:    time.Duration(pick(func(u usage) int64 { return int64(u.cpu) })),
		memory: pick(func(u usage) int64 { return u.memory }),
		size:   pick(func(u usage) int64 { return u.size }),
	}
}

// ratios are a ÷ b of each round: the median and the ends of their range.
func ratios(a, b []usage, f func(usage) float64) string {
	var v []float64
	for i := range min(len(a), len(b)) {
		v = append(v, f(a[i])/f(b[i]))
	}
	slices.Sort(v)
	return fmt.Sprintf("%.2f (%.2f to %.2f)", v[len(v)/2], v[0], v[len(v)-1])
}

func wall(u usage) float64 { return u.wall.Seconds() }
func cpu(u usage) float64  { return u.cpu.Seconds() }

// command is one program to measure.
type command struct {
	name string
	args []string
	dir  string
	env  []string // beside the test's own
	out  string   // file whose size counts
}

// run measures it, with all processes it starts.
func (c command) run(ctx context.Context) (usage, error) {
	x := exec.CommandContext(ctx, c.name, c.args...)
	x.Dir, x.Env = c.dir, append(os.Environ(), c.env...)
	var said bytes.Buffer
	x.Stdout, x.Stderr = &said, &said
	begin := time.Now()
	if err := x.Start(); err != nil {
		return usage{}, err
	}
	stop, peak := make(chan struct{}), make(chan int64)
	go func() { peak <- watchMemory(x.Process.Pid, stop) }()
	err := x.Wait()
	u := usage{wall: time.Since(begin)}
	close(stop)
	u.memory = <-peak
	if err != nil {
		return u, fmt.Errorf("%s %s: %w\n%s", c.name, strings.Join(c.args, " "), err, said.String())
	}
	u.cpu = x.ProcessState.UserTime() + x.ProcessState.SystemTime()
	if c.out != "" {
		st, err := os.Stat(c.out)
		if err != nil {
			return u, err
		}
		u.size = st.Size()
	}
	return u, nil
}

// watchMemory adds up the anonymous memory of a process and all below it, four
// times a second, and returns the largest sum. What is mapped from files and
// shared with others is not counted: the kernel can have it back.
func watchMemory(pid int, stop <-chan struct{}) (peak int64) {
	every := time.NewTicker(250 * time.Millisecond)
	defer every.Stop()
	for {
		select {
		case <-stop:
			return peak
		case <-every.C:
			peak = max(peak, memoryBelow(pid))
		}
	}
}

func memoryBelow(root int) (sum int64) {
	below := map[int][]int{}
	private := map[int]int64{}
	files, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		return 0
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		pid, parent := 0, 0
		for line := range strings.Lines(string(text)) {
			w := strings.Fields(line)
			if len(w) < 2 {
				continue
			}
			switch n, _ := strconv.Atoi(w[1]); w[0] {
			case "Pid:":
				pid = n
			case "PPid:":
				parent = n
			case "RssAnon:", "RssShmem:":
				private[pid] += int64(n) << 10
			}
		}
		below[parent] = append(below[parent], pid)
	}
	todo := []int{root}
	for len(todo) > 0 {
		pid := todo[0]
		todo = append(todo[1:], below[pid]...)
		sum += private[pid]
	}
	return sum
}
