package join

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
	"time"

	"joist/cluster/store"
)

var noon = time.Date(2030, 3, 1, 12, 0, 0, 0, time.UTC)

func TestToken(t *testing.T) {
	text, tok, err := NewToken(noon, TokenLife, "n2")
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^joist-[a-z2-7]{8}-[a-z2-7]{26}$`).MatchString(text) {
		t.Errorf("text %q", text)
	}
	s, err := ParseToken("  " + strings.ToUpper(text) + "\n")
	if err != nil || s.ID != tok.ID || !bytes.Equal(s.key, tok.Key) {
		t.Errorf("read back: %+v %v", s, err)
	}
	if strings.Contains(string(tok.Encode()), text[len(text)-secretLen:]) {
		t.Error("the store would keep the secret")
	}
	back, err := DecodeToken(store.Item{Key: TokenStoreKey(tok.ID), Value: tok.Encode()})
	if err != nil || !back.Expires.Equal(noon.Add(time.Hour)) || back.Node != "n2" || !bytes.Equal(back.Key, tok.Key) {
		t.Errorf("decoded: %+v %v", back, err)
	}
	if _, err := DecodeToken(store.Item{Key: TokenStoreKey("other"), Value: tok.Encode()}); err == nil {
		t.Error("token under another's key")
	}
	again, _, _ := NewToken(noon, TokenLife, "")
	if again == text {
		t.Error("the same token twice")
	}
	for _, life := range []time.Duration{0, time.Second, 31 * 24 * time.Hour} {
		if _, _, err := NewToken(noon, life, ""); err == nil {
			t.Errorf("a life of %v", life)
		}
	}
	if _, _, err := NewToken(noon, TokenLife, "N_2"); err == nil {
		t.Error("a token for a name that no node can have")
	}
}

func TestParseToken(t *testing.T) {
	secret := strings.Repeat("a", 26)
	tests := []struct{ text, want string }{
		{"", "it is empty"},
		{"join-abcdefgh-" + secret, `does not begin with "joist-"`},
		{"joist-abcdefgh-" + secret[1:], "it has 40 characters, a token has 41"},
		{"joist-abcdefgh-" + secret + "b", "it has 42 characters"},
		{"joist-abcdefgha" + secret, "character 15 must be a dash"},
		{"joist-abcdefg1-" + secret, "character 14 is none of"},
		{"joist-abcdefgh-" + secret[1:] + "0", "character 41 is none of"},
	}
	for _, tt := range tests {
		_, err := ParseToken(tt.text)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: %v, want %q", tt.text, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), secret[1:]) {
			t.Errorf("error repeats the secret: %v", err)
		}
	}
}

// TestProof: another purpose, another division into parts and another key each
// give another proof.
func TestProof(t *testing.T) {
	a, b := []byte("ab"), []byte("c")
	k := tokenKey("k")
	all := [][]byte{
		proof(k, proveHello, a, b), proof(k, proveVoter, a, b), proof(k, proveHello, []byte("a"), []byte("bc")),
		proof(k, proveHello, []byte("abc")), proof(k, proveHello, b, a), proof(tokenKey("l"), proveHello, a, b),
	}
	for i := range all {
		for j := range i {
			if bytes.Equal(all[i], all[j]) {
				t.Errorf("proofs %d and %d are the same", i, j)
			}
		}
	}
	if !bytes.Equal(all[0], proof(k, proveHello, a, b)) {
		t.Error("a proof differs from itself")
	}
}
