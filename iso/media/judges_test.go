package media

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"joist/internal/run"
	"joist/rootfs/tree"
)

// What programs that others wrote say of an image.

func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("JOIST_NEED_TOOLS") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	out, err := run.OS{}.Run(t.Context(), run.Cmd{Path: path, Args: args, Env: []string{"LC_ALL=C.UTF-8", "TZ=UTC", "PATH=/usr/bin:/bin", "HOME=/nonexistent"}})
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func blocks(t *testing.T, name string) int64 {
	t.Helper()
	var st syscall.Stat_t
	must(t, syscall.Stat(name, &st))
	return st.Blocks * 512
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		must(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	must(t, err)
	if d := cmp.Diff(string(want), got); d != "" {
		t.Error(d)
	}
}

// TestXorrisoReport: it sees a GRUB 2 hybrid for both firmwares, as it makes
// them itself by -boot-info-table --grub2-boot-info --grub2-mbr
// --efi-boot-part --protective-msdos-label.
func TestXorrisoReport(t *testing.T) {
	golden(t, "report.txt", tool(t, "xorriso", "-no_rc", "-report_about", "SORRY", "-indev", write(t, spec()), "-report_el_torito", "plain", "-report_system_area", "plain"))
}

func TestSgdiskVerifies(t *testing.T) {
	if out := tool(t, "sgdisk", "--verify", write(t, spec())); !strings.Contains(out, "No problems found") || strings.Contains(out, "hybrid") {
		t.Error(out)
	}
}

// TestLargeFile: a file of more than 4 GiB, empty but for its ends, is one
// file for xorriso and arrives whole.
func TestLargeFile(t *testing.T) {
	const size = 5<<30 + 12345
	const edge = 1<<32 - 2048 // where the second extent begins
	marks := map[int64]string{0: "begin", edge - 4: "over the edge", size - 3: "end"}
	name := filepath.Join(t.TempDir(), "large")
	f, err := os.Create(name)
	must(t, err)
	for at, text := range marks {
		_, err := f.WriteAt([]byte(text), at)
		must(t, err)
	}
	must(t, f.Close())
	src, err := tree.FromFile(name)
	must(t, err)
	s := spec()
	s.Files["/large"] = src
	image := write(t, s)
	if n := blocks(t, image); n > 16<<20 && blocks(t, name) < 16<<20 {
		t.Errorf("the holes became %d bytes", n)
	}
	out := tool(t, "xorriso", "-no_rc", "-report_about", "SORRY", "-indev", image, "-find", "/large", "-exec", "report_lba", "--")
	var lba, blocks [2]int64
	lines := strings.Split(out[strings.Index(out, "File data lba:"):], "\n")
	for i := range lba {
		if _, err := fmt.Sscanf(lines[i], "File data lba: %d , %d , %d ,", new(int), &lba[i], &blocks[i]); err != nil {
			t.Fatalf("xorriso says %s: %v", out, err)
		}
	}
	if lba[1] != lba[0]+edge/2048 || blocks[0] != edge/2048 || !strings.Contains(lines[1], fmt.Sprint(int64(size))) {
		t.Errorf("xorriso says %s", out)
	}
	in, err := os.Open(image)
	must(t, err)
	defer in.Close()
	for at, text := range marks {
		got := make([]byte, len(text))
		if _, err := in.ReadAt(got, lba[0]*2048+at); err != nil || string(got) != text {
			t.Errorf("at %d there is %q (%v)", at, got, err)
		}
	}
}
