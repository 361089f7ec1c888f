package boot

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
)

// The bytes are those that mokutil --import --simple-hash writes: the list by
// UEFI 2.10, 32.4.1, the hash recomputed with sha256sum.
func TestMokRequest(t *testing.T) {
	list, auth, err := MokRequest([]byte("cert"), "1234")
	if err != nil {
		t.Fatal(err)
	}
	want := "a159c0a5e494a74a87b5ab155c2bf072" + "30000000" + "00000000" + "14000000" + "50ab5d6046e00043abb63dd810dd8b23" + "63657274"
	if got := hex.EncodeToString(list); got != want {
		t.Errorf("list %s, want %s", got, want)
	}
	// printf 'LIST 31003200 33003400' | xxd -r -p | sha256sum
	const hash = "623ca634c69fe76ab455668c1f43f9a5d737fe5377b2a3d5beb0558ca92ae3e1"
	if got := hex.EncodeToString(auth); got != hash {
		t.Errorf("hash %s, want %s", got, hash)
	}
	if _, other, _ := MokRequest([]byte("cers"), "1234"); bytes.Equal(other, auth) {
		t.Error("another certificate has the same hash")
	}
	for what, f := range map[string]func() ([]byte, []byte, error){
		"no certificate":    func() ([]byte, []byte, error) { return MokRequest(nil, "1234") },
		"a large one":       func() ([]byte, []byte, error) { return MokRequest(make([]byte, 20<<10), "1234") },
		"no password":       func() ([]byte, []byte, error) { return MokRequest([]byte("c"), "") },
		"a password's bulk": func() ([]byte, []byte, error) { return MokRequest([]byte("c"), strings.Repeat("1", 257)) },
	} {
		if _, _, err := f(); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
}
