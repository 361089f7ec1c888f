// Package support gathers what somebody needs who is to find out what is wrong
// with a machine: logs, plan and answer of the installation, facts and
// findings, versions, the kernel's messages, disks. It works in the installer,
// in the rescue system and on a node. What holds secrets is not read, and what
// looks like one in the rest is taken out.
package support

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"joist/api/node"
	"joist/internal/run"
)

// fileMax is the most of a file or an output that is taken, its end.
const fileMax = 1 << 20

// Machine is the machine that is looked at.
type Machine struct {
	Root      string // "/"
	Run       run.Runner
	KernelLog func() ([]byte, error)
	Status    func() ([]byte, error) // what PID 1 says, as JSON
	Now       func() time.Time
}

// onState are patterns below the state volume, /var on a node and
// /mnt/state in the rescue system. Nothing else of it is read: it holds keys,
// password hashes and tokens.
var onState = []string{
	trim(node.ConfigFile), trim(node.ReportFile), trim(node.InstallJournal), trim(node.InstallLog),
	trim(node.CrashDir) + "/*", trim(node.LogDir) + "/*", trim(node.TaskDir) + "/index",
}

func trim(p string) string { return strings.TrimPrefix(p, "/var") }

// others are patterns of other files.
var others = []string{
	"/usr/lib/joist/build.json", "/proc/version", "/proc/cmdline", "/proc/uptime", "/proc/loadavg", "/proc/meminfo", "/proc/cpuinfo",
	"/proc/modules", "/proc/mounts", "/proc/partitions", "/proc/mdstat", "/proc/iomem", "/proc/net/dev",
	node.NetState, node.APIState, node.RunDir + "/resolv.conf", node.RunDir + "/install.json", node.RunDir + "/install-report.json",
	"/run/joist/medium/joist/*/manifest.json",
}

// commands are programs that only look. Those that are not there are left out.
var commands = []struct {
	name string
	argv []string
}{
	{"facts", []string{"/usr/sbin/joist-install", "check"}},
	{"lsblk", []string{"lsblk", "-o", "NAME,SIZE,TYPE,RO,RM,ROTA,LOG-SEC,PHY-SEC,MODEL,SERIAL,FSTYPE,LABEL,UUID,PARTLABEL,MOUNTPOINTS"}},
	{"lspci", []string{"lspci", "-nnk"}},
	{"ip-address", []string{"ip", "-details", "address"}},
	{"ip-route", []string{"ip", "route"}},
}

const commandTime = time.Minute

// Name is a file name for a bundle.
func (m Machine) Name() string {
	host := "machine"
	if c, err := node.Load(m.Root); err == nil && hostName.MatchString(c.Name) {
		host = c.Name
	}
	return "joist-support-" + host + "-" + m.Now().UTC().Format("20060102T150405") + ".tar.gz"
}

// Write writes the bundle, a gzipped tar archive. What could not be read is
// named in its file "missing".
func (m Machine) Write(ctx context.Context, w io.Writer) error {
	z := gzip.NewWriter(w)
	b := &bundle{t: tar.NewWriter(z), now: m.Now(), clean: m.cleaner()}
	for _, pattern := range slices.Concat(prefix("/var", onState), prefix("/mnt/state", onState), others) {
		found, err := filepath.Glob(filepath.Join(m.Root, pattern))
		if err != nil {
			return fmt.Errorf("gather %s: %w", pattern, err)
		}
		for _, name := range found {
			text, err := end(name)
			if errors.Is(err, errNoFile) {
				continue
			}
			rel, _ := filepath.Rel(m.Root, name) // both come from Root
			b.add(rel, text, err)
		}
	}
	text, err := m.KernelLog()
	b.add("dmesg.txt", text, err)
	text, err = m.Status()
	b.add("status.json", text, err)
	for _, c := range commands {
		text, err := m.output(ctx, c.argv)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		b.add("commands/"+c.name+".txt", text, err)
	}
	b.add("missing", []byte(b.missing.String()), nil)
	return errors.Join(b.err, b.t.Close(), z.Close())
}

func prefix(dir string, list []string) (out []string) {
	for _, p := range list {
		out = append(out, dir+p)
	}
	return out
}

// output is all that a program said; facts come with findings on standard
// error, and a status that says that some stop an installation.
func (m Machine) output(ctx context.Context, argv []string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	var text bytes.Buffer
	_, err := m.Run.Run(ctx, run.Cmd{Path: argv[0], Args: argv[1:], Line: func(l string) { fmt.Fprintln(&text, l) }})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(&text, "(%v)\n", err)
		err = nil
	}
	return text.Bytes(), err
}

var errNoFile = errors.New("not a file")

// end reads the last part of a file. Links are not followed, but for those of
// proc(5).
func end(name string) ([]byte, error) {
	st, err := os.Lstat(name)
	if err == nil && filepath.Base(name) == "mounts" {
		st, err = os.Stat(name)
	}
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, errNoFile
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st.Size() > fileMax {
		if _, err := f.Seek(-fileMax, io.SeekEnd); err != nil {
			return nil, err
		}
	}
	return io.ReadAll(io.LimitReader(f, fileMax))
}

// bundle is the archive that is being written.
type bundle struct {
	t       *tar.Writer
	now     time.Time
	clean   cleaner
	missing strings.Builder
	err     error
}

// add writes one file without its secrets, or says why there is none.
func (b *bundle) add(name string, text []byte, err error) {
	if err != nil {
		fmt.Fprintf(&b.missing, "%s: %s\n", name, b.clean.text([]byte(err.Error())))
		return
	}
	if b.err != nil {
		return
	}
	text = b.clean.text(text[max(0, len(text)-fileMax):])
	b.err = b.t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path.Join("joist-support", filepath.ToSlash(name)), Mode: 0o600, Size: int64(len(text)), ModTime: b.now})
	if b.err == nil {
		_, b.err = b.t.Write(text)
	}
}
