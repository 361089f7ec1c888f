package bundle

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"joist/image/boot"
	"joist/rootfs/tree"
)

var (
	pub, key, _ = ed25519.GenerateKey(nil)
	other, _, _ = ed25519.GenerateKey(nil)
)

func sign(m []byte) ([]byte, error)     { return ed25519.Sign(key, m), nil }
func unsigned(_ []byte) ([]byte, error) { return nil, nil }

// sample is a bundle whose system has two and a half pieces.
func sample(t testing.TB, s Sign) ([]byte, map[string][]byte) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(1, 2))
	content := map[string][]byte{}
	m := boot.Manifest{BuildID: "0123456789abcdef", Version: "1.0.0", Built: time.Unix(1750000000, 0).UTC(), Kernel: "6.12.1-amd64", VerityRoot: strings.Repeat("ab", 32), Files: map[string]boot.File{}}
	var files []Content
	for _, x := range []struct {
		name string
		size int
	}{{boot.FileKernel, 70000}, {boot.FileInitrd, chunk}, {boot.FileSystem, 5 * chunk / 2}, {"shimx64.efi", 1}} {
		b := make([]byte, x.size)
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		content[x.name] = b
		files = append(files, Content{x.name, tree.Bytes(b)})
		f, err := measure(files[len(files)-1])
		if err != nil {
			t.Fatal(err)
		}
		if x.name != "shimx64.efi" {
			m.Files[x.name] = boot.File{Size: f.Size, SHA256: f.SHA256}
		}
	}
	var out bytes.Buffer
	if err := Write(&out, m, files, s); err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), content
}

// readAll reads a bundle to its end and returns what was handed out.
func readAll(r io.Reader, key ed25519.PublicKey) (map[string][]byte, error) {
	x, err := Open(r, key)
	if err != nil {
		return nil, err
	}
	got := map[string][]byte{}
	for {
		f, err := x.Next()
		if errors.Is(err, io.EOF) {
			return got, nil
		}
		if err != nil {
			return got, err
		}
		b, err := io.ReadAll(x)
		got[f.Name] = b
		if err != nil {
			return got, err
		}
	}
}

func TestRoundTrip(t *testing.T) {
	text, want := sample(t, sign)
	again, _ := sample(t, sign)
	if !bytes.Equal(text, again) {
		t.Error("twice the same gives other bytes")
	}
	for name, r := range map[string]io.Reader{"whole": bytes.NewReader(text), "in bits": iotest.OneByteReader(bytes.NewReader(text)), "with the end": iotest.DataErrReader(bytes.NewReader(text))} {
		got, err := readAll(r, pub)
		if err != nil || len(got) != len(want) {
			t.Fatalf("%s: %d files, %v", name, len(got), err)
		}
		for n, b := range want {
			if !bytes.Equal(got[n], b) {
				t.Errorf("%s: %s is another", name, n)
			}
		}
	}
	x, err := OpenUnchecked(bytes.NewReader(text))
	if err != nil || x.Signed {
		t.Fatalf("unchecked: signed %v, %v", x.Signed, err)
	}
	// Files may be passed over, and found by their place.
	for range want {
		if _, err := x.Next(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := x.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last file: %v", err)
	}
	at, f, ok := x.Offset(boot.FileSystem)
	if !ok || !bytes.Equal(text[at:at+f.Size], want[boot.FileSystem]) {
		t.Errorf("the system does not lie at %d", at)
	}
	if _, _, ok := x.Offset("absent"); ok {
		t.Error("a file that is not there has a place")
	}
}

func TestRefused(t *testing.T) {
	good, _ := sample(t, sign)
	loose, _ := sample(t, unsigned)
	x, err := OpenUnchecked(bytes.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	system, _, _ := x.Offset(boot.FileSystem)
	flip := func(at int64) []byte {
		b := bytes.Clone(good)
		b[at] ^= 1
		return b
	}
	format := func(n uint32) []byte {
		b := bytes.Clone(good)
		binary.LittleEndian.PutUint32(b[len(magic):], n)
		return b
	}
	long := bytes.Clone(good)
	binary.LittleEndian.PutUint32(long[len(magic)+4:], 1<<31)
	for name, c := range map[string]struct {
		text []byte
		key  ed25519.PublicKey
		want error
	}{
		"nothing":                     {nil, pub, ErrNoBundle},
		"another file":                {bytes.Repeat([]byte("x"), 100), pub, ErrNoBundle},
		"a short other file":          {[]byte("JOKE"), pub, ErrNoBundle},
		"another key":                 {good, other, ErrForged},
		"unsigned":                    {loose, pub, ErrUnsigned},
		"older format":                {format(0), pub, ErrTooOld},
		"newer format":                {format(2), pub, ErrTooNew},
		"a head without end":          {long, pub, ErrDamaged},
		"a flipped byte of the head":  {flip(40), pub, ErrForged},
		"of the signature":            {flip(x.Body - 1), pub, ErrForged},
		"of a file":                   {flip(system + 3*chunk/2), pub, ErrDamaged},
		"of the last byte":            {flip(int64(len(good)) - 1), pub, ErrDamaged},
		"something behind":            {append(bytes.Clone(good), 0), pub, ErrDamaged},
		"cut in the first line":       {good[:5], pub, ErrCut},
		"cut in the head":             {good[:100], pub, ErrCut},
		"cut before the first file":   {good[:x.Body], pub, ErrCut},
		"cut in a file":               {good[:system+1], pub, ErrCut},
		"cut at the end":              {good[:len(good)-1], pub, ErrCut},
		"no key, but it is asked for": {good, nil, nil},
	} {
		got, err := readAll(bytes.NewReader(c.text), c.key)
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		// Nothing that is wrong is handed out: pieces before it at most.
		if n := len(got[boot.FileSystem]); name == "of a file" && n != chunk {
			t.Errorf("%s: %d bytes were handed out before it", name, n)
		}
	}
}

// A connection that breaks is not the bundle's fault.
func TestBrokenStream(t *testing.T) {
	good, _ := sample(t, sign)
	broken := errors.New("connection reset")
	for _, n := range []int{0, 5, 50, len(good) / 2} {
		_, err := readAll(io.MultiReader(bytes.NewReader(good[:n]), iotest.ErrReader(broken)), pub)
		if !errors.Is(err, broken) {
			t.Errorf("broken after %d bytes: %v", n, err)
		}
	}
}

// What a head says is checked even when the key's owner signed it.
func TestHead(t *testing.T) {
	good, _ := sample(t, sign)
	for name, change := range map[string]func(*Head){
		"a path":           func(h *Head) { h.Files[0].Name = "../x" },
		"a name twice":     func(h *Head) { h.Files[1].Name = h.Files[0].Name },
		"no system":        func(h *Head) { h.Files = h.Files[:2] },
		"another system":   func(h *Head) { h.Files[2].SHA256 = strings.Repeat("0", 64) },
		"an endless file":  func(h *Head) { h.Files[3].Size = 1 << 60 },
		"an empty file":    func(h *Head) { h.Files[3].Size, h.Files[3].Chunks = 0, nil },
		"no hash":          func(h *Head) { h.Files[3].SHA256 = "" },
		"a piece's hash":   func(h *Head) { h.Files[3].Chunks[0] = "x" },
		"another manifest": func(h *Head) { h.Manifest.BuildID = "x" },
		"too many files":   func(h *Head) { h.Files = make([]File, maxFiles+1) },
	} {
		x, err := OpenUnchecked(bytes.NewReader(good))
		if err != nil {
			t.Fatal(err)
		}
		change(&x.Head)
		if err := x.Head.check(); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func FuzzOpen(f *testing.F) {
	good, _ := sample(f, unsigned)
	f.Add(good[:20000])
	f.Add([]byte(magic + "\x01\x00\x00\x00\x02\x00\x00\x00{}" + strings.Repeat("\x00", 64)))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := OpenUnchecked(bytes.NewReader(b))
		for err == nil {
			if _, err = x.Next(); err == nil {
				_, err = io.Copy(io.Discard, x)
			}
		}
		if errors.Is(err, io.EOF) && int64(len(b)) < x.Body {
			t.Error("more was read than is there")
		}
	})
}
