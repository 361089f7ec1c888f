package squashfs

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"testing"
)

// TestLibraryVersion: cached blocks of another version must not be taken.
func TestLibraryVersion(t *testing.T) {
	b, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if want := "github.com/klauspost/compress " + libraryVersion + "\n"; !bytes.Contains(b, []byte(want)) {
		t.Errorf("go.mod does not have %q, which the cache's key says", want)
	}
}

// TestOwnVersion: so must those of another blockzstd. When it compresses
// otherwise, ownVersion goes up and the sums change here.
func TestOwnVersion(t *testing.T) {
	want := map[int]string{9: "22823 d652b0fa", 11: "22606 f40ef158", 14: "22001 3f31b942", 18: "21665 222711d9", 22: "19943 46bb8671"}
	src := append(text(1, 60<<10), noise(1, 5<<10)...)
	for level, sum := range want {
		c, err := Zstd(level, DefaultBlockSize)
		if err != nil {
			t.Fatal(err)
		}
		frame, err := c.Compress(nil, src)
		if got := fmt.Sprintf("%d %.4x", len(frame), sha256.Sum256(frame)); err != nil || got != sum {
			t.Errorf("version %d at level %d gives %q, known is %q (%v)", ownVersion, level, got, sum, err)
		}
	}
}

// TestLevels: a higher one is hardly ever larger (where the encoder changes, by
// a few per cent of what is unlike a file system), and what differs has another
// name in the cache.
func TestLevels(t *testing.T) {
	src := text(2, DefaultBlockSize)
	last := len(src)
	names := map[string]int{}
	for level := 1; level <= 22; level++ {
		c, err := Zstd(level, DefaultBlockSize)
		if err != nil || c.Level != level {
			t.Fatal(level, err)
		}
		b, err := c.Compress(nil, src)
		if err != nil || len(b) > last+last/20 {
			t.Errorf("level %d gives %d bytes, the one below %d (%v)", level, len(b), last, err)
		}
		last = len(b)
		if n, ok := names[c.Name]; ok && n != len(b) {
			t.Errorf("two codecs are called %q", c.Name)
		}
		names[c.Name] = len(b)
	}
}
