package blockzstd

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"
)

var efforts = []Effort{{Lazy: true, Depth: 8, Nice: 32}, {Depth: 4, Nice: 32, Skim: 128}, {Depth: 16, Nice: 64}, {Tree: true, Depth: 32, Nice: 128, Skim: 64}, {Tree: true, Depth: 64, Nice: 256}}

// samples are blocks at the edges of the format.
func samples() map[string][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	noise := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	words := func(n int) []byte {
		var b strings.Builder
		for b.Len() < n {
			fmt.Fprintf(&b, "%d word%d %s;", r.IntN(9), r.IntN(3000), strings.Repeat("x", r.IntN(4)))
		}
		return []byte(b.String()[:n])
	}
	out := map[string][]byte{"empty": {}, "zeros": make([]byte, maxBlock), "million": make([]byte, MaxInput), "far": nil}
	for _, n := range []int{1, 2, 7, 8, 9, 31, 32, 255, 256, 257, 1023, 4096, 65791, 65792, maxBlock} {
		out[fmt.Sprint("words", n)] = words(n)
		out[fmt.Sprint("noise", n)] = noise(n)
	}
	out["mixed"] = append(append(append(noise(20000), words(60000)...), make([]byte, 100000)...), words(50000)...)
	far := noise(50000)
	out["far"] = append(append(far, words(100000)...), far...)
	skewed := make([]byte, 30000)
	for i := range skewed {
		skewed[i] = byte(max(0, r.NormFloat64()*3+10))
	}
	out["skewed"] = skewed
	var pairs []byte
	for len(pairs) < 30000 {
		pairs = append(pairs, byte(r.IntN(3)), byte(r.IntN(3)), 7)
	}
	out["short matches"] = pairs
	return out
}

func decode(t interface{ Fatalf(string, ...any) }, frame []byte) []byte {
	d, err := zstd.NewReader(nil, zstd.WithDecoderMaxWindow(MaxInput))
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer d.Close()
	b, err := d.DecodeAll(frame, nil)
	if err != nil {
		t.Fatalf("decode: %v", err)
	}
	return b
}

func TestRoundTrip(t *testing.T) {
	for _, e := range efforts {
		enc := New(e)
		for name, src := range samples() {
			frame, err := enc.Compress([]byte("before"), src)
			if err != nil {
				t.Fatal(err)
			}
			if got := decode(t, frame[6:]); !bytes.Equal(got, src) || string(frame[:6]) != "before" {
				t.Errorf("%s with %+v differs", name, e)
			}
			if len(frame) > len(src)+6+12+3*(len(src)/maxBlock+1) {
				t.Errorf("%s grew from %d to %d", name, len(src), len(frame))
			}
			again, err := enc.Compress([]byte("before"), src)
			if err != nil || !bytes.Equal(frame, again) {
				t.Errorf("%s gives other bytes the second time (%v)", name, err)
			}
		}
	}
	if _, err := New(efforts[0]).Compress(nil, make([]byte, MaxInput+1)); err == nil {
		t.Error("too long a block was taken")
	}
}

func TestRandom(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var src []byte
		for range rapid.IntRange(0, 40).Draw(r, "pieces") {
			switch n := rapid.IntRange(1, 3000).Draw(r, "n"); rapid.IntRange(0, 3).Draw(r, "kind") {
			case 0:
				src = append(src, rapid.SliceOfN(rapid.ByteRange(0, 3), 1, 60).Draw(r, "few")...)
			case 1:
				src = append(src, bytes.Repeat(rapid.SliceOfN(rapid.Byte(), 1, 5).Draw(r, "unit"), n)...)
			case 2:
				src = append(src, rapid.SliceOfN(rapid.Byte(), 1, 60).Draw(r, "any")...)
			case 3:
				if len(src) > 0 {
					at := rapid.IntRange(0, len(src)-1).Draw(r, "from")
					src = append(src, src[at:min(len(src), at+n)]...)
				}
			}
		}
		frame, err := New(rapid.SampledFrom(efforts).Draw(r, "effort")).Compress(nil, src)
		if err != nil {
			r.Fatal(err)
		}
		if got := decode(r, frame); !bytes.Equal(got, src) {
			r.Fatal("differs")
		}
	})
}

// TestSmaller: the point of the package.
func TestSmaller(t *testing.T) {
	lib, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true))
	if err != nil {
		t.Fatal(err)
	}
	defer lib.Close()
	src := samples()["words131072"]
	frame, err := New(efforts[3]).Compress(nil, src)
	if theirs := len(lib.EncodeAll(src, nil)); err != nil || len(frame) > theirs {
		t.Errorf("%d bytes, the library's best has %d (%v)", len(frame), theirs, err)
	}
}
