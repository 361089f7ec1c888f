package access

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"joist/cluster/store"
	"joist/cluster/store/storetest"

	"github.com/google/go-cmp/cmp"
)

// The hashes were made by crypt(3) of libxcrypt.
const (
	password = "s3cret pass"
	hashY    = "$y$j9T$abcdefghijklmnop$HGkC0pvh3wl.bbLZ6Y/2bzBSpEUmJ.Qu5hTB73tthd4"
	hash6    = "$6$saltsalt$osX/3U830g/zrFjlLO4TCL7anTNnqPEtGZkQlCTVqQ4pIrvUWJgcB5qXW3Wio7X4AzYGVHZaxr6U8FI7Xf77C/"
	hash5    = "$5$rounds=2000$saltsalt$nt0cZwvEpkAicu6GJSyFNm3goCRqTrYg4cwdATIUBo0"
	hashB    = "$2b$05$abcdefghijklmnopqrstuu1qdcFaS0PtqFUPzaCxLQ8/0lspH0ZEW"
)

func TestCheckPassword(t *testing.T) {
	for name, hash := range map[string]string{"yescrypt": hashY, "sha512": hash6, "sha256": hash5, "bcrypt": hashB} {
		t.Run(name, func(t *testing.T) {
			if err := CheckPassword(hash, password); err != nil {
				t.Error(err)
			}
			for _, bad := range []string{"", "s3cret pas", password + "x", password + "\x00", strings.Repeat("x", 2000)} {
				if CheckPassword(hash, bad) == nil {
					t.Errorf("accepted %.20q", bad)
				}
			}
			if CheckPassword(hash[:len(hash)-1], password) == nil {
				t.Error("accepted a cut hash")
			}
		})
	}
	for _, hash := range []string{"", "*", "!", "!" + hash6, "$y$", "$6$", "$2", "$1$x$y", password} {
		if CheckPassword(hash, password) == nil || CheckPassword(hash, "") == nil {
			t.Errorf("hash %q accepts", hash)
		}
	}
}

func testKeys(t *testing.T, b byte) Keys {
	t.Helper()
	k, err := NewKeys([]byte(strings.Repeat(string(b), 32)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestTicket(t *testing.T) {
	k, now := testKeys(t, 'a'), time.Unix(1_800_000_000, 0)
	good := k.Mint(Root, now)
	if f := strings.Split(good, ":"); f[0] != "PVE" || f[1] != Root || f[2] != "6B49D200" || f[3] != "" || len(f) != 5 {
		t.Errorf("form of %q", good)
	}
	tests := []struct {
		name, ticket string
		at           time.Duration
		ok           bool
	}{
		{"fresh", good, 0, true}, {"nearly old", good, ticketLife - time.Second, true}, {"expired", good, ticketLife, false},
		{"slow clock", good, -4 * time.Minute, true}, {"from the future", good, -6 * time.Minute, false},
		{"other key", testKeys(t, 'b').Mint(Root, now), 0, false},
		{"other user", strings.Replace(good, "root", "toor", 1), 0, false},
		{"other time", strings.Replace(good, "6B49D200", "6B49D201", 1), 0, false},
		{"no signature", "PVE:root@pam:6B49D200::", 0, false}, {"cut", good[:len(good)-4], 0, false},
		{"console ticket", k.MintVNC(Root, "/vms/100", 5900, now), 0, false},
		{"half ticket", "PVE:!tfa!x:6B49D200::" + strings.Split(good, "::")[1], 0, false}, {"empty", "", 0, false},
	}
	for _, tt := range tests {
		user, err := k.Verify(tt.ticket, now.Add(tt.at))
		if (err == nil) != tt.ok || tt.ok && user != Root {
			t.Errorf("%s: %q %v", tt.name, user, err)
		}
	}
	if _, err := (Keys{}).Verify(good, now); err == nil {
		t.Error("keys without a seed accept")
	}
}

func TestVNCAndCSRF(t *testing.T) {
	k, now := testKeys(t, 'a'), time.Unix(1_800_000_000, 0)
	v := k.MintVNC(Root, "/vms/100", 5900, now)
	tests := []struct {
		name, user, path string
		port             int
		at               time.Duration
		ok               bool
	}{
		{"right", Root, "/vms/100", 5900, 0, true}, {"other guest", Root, "/vms/101", 5900, 0, false},
		{"other port", Root, "/vms/100", 5901, 0, false}, {"other user", "a@pam", "/vms/100", 5900, 0, false},
		{"expired", Root, "/vms/100", 5900, vncLife, false},
	}
	for _, tt := range tests {
		if err := k.VerifyVNC(v, tt.user, tt.path, tt.port, now.Add(tt.at)); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	c := k.MintCSRF(Root, now)
	if err := k.VerifyCSRF(c, Root, now); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", c + "x", k.MintCSRF("a@pam", now), testKeys(t, 'b').MintCSRF(Root, now), k.MintCSRF(Root, now.Add(-csrfLife))} {
		if k.VerifyCSRF(bad, Root, now) == nil {
			t.Errorf("accepted %q", bad)
		}
	}
}

func TestPolicy(t *testing.T) {
	p := Policy{
		Users:  map[string]User{"a@pve": {Enable: true}},
		Groups: map[string][]string{"ops": {"a@pve"}},
		Roles:  map[string][]string{"Mine": {"VM.Audit"}, "Administrator": {"VM.Audit"}},
		Tokens: map[string]Token{"a@pve!sep": {PrivSep: true}, "a@pve!full": {}, "root@pam!sep": {PrivSep: true}},
		ACL: []Rule{
			{"/", "group", "ops", "PVEAuditor", true},
			{"/vms", "user", "a@pve", "PVEVMAdmin", true},
			{"/vms/100", "user", "a@pve", "NoAccess", true},
			{"/vms/200", "user", "a@pve", "Mine", false},
			{"/storage", "group", "ops", "PVEDatastoreAdmin", false},
			{"/vms/300", "token", "a@pve!sep", "PVEVMUser", true},
			{"/vms/300", "token", "root@pam!sep", "PVEVMUser", true},
		},
	}
	tests := []struct {
		user, token, path, priv string
		want                    bool
	}{
		{Root, "", "/anything", "Sys.Modify", true}, {"b@pve", "", "/", "VM.Audit", false},
		{"a@pve", "", "/nodes/n", "Sys.Audit", true}, {"a@pve", "", "/nodes/n", "Sys.Modify", false},
		{"a@pve", "", "/vms/1", "VM.Allocate", true}, {"a@pve", "", "/vms/1", "Sys.Audit", false},
		{"a@pve", "", "/vms/100", "VM.Audit", false}, {"a@pve", "", "/vms/200", "VM.Audit", true}, {"a@pve", "", "/vms/200", "VM.Clone", false},
		{"a@pve", "", "/storage", "Datastore.Allocate", true}, {"a@pve", "", "/storage/x", "Datastore.Allocate", false},
		{"a@pve", "", "/storage/x", "Datastore.Audit", true},
		{"a@pve", "full", "/vms/1", "VM.Allocate", true}, {"a@pve", "sep", "/vms/1", "VM.Allocate", false},
		{"a@pve", "sep", "/vms/300", "VM.PowerMgmt", true}, {"a@pve", "sep", "/vms/300", "VM.Allocate", false},
		{"a@pve", "gone", "/vms/1", "VM.Allocate", false},
		{Root, "sep", "/vms/300", "VM.PowerMgmt", true}, {Root, "sep", "/vms/1", "VM.PowerMgmt", false},
	}
	for _, tt := range tests {
		if got := p.May(tt.user, tt.token, tt.path, tt.priv); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
	tree := p.Tree("a@pve", "", "")
	if tree["/vms/200"]["VM.Audit"] != 0 || tree["/vms"]["VM.Audit"] != 1 || tree["/vms/100"] != nil {
		t.Errorf("tree %v", tree)
	}
	caps := p.Capabilities(Root)
	if len(caps) != 7 || caps["vms"]["VM.Audit"] != 1 || caps["dc"]["SDN.Use"] != 1 {
		t.Errorf("capabilities %v", caps)
	}
	for _, area := range p.Capabilities("b@pve") {
		if area == nil {
			t.Error("an area without privileges is null")
		}
	}
	for role, privs := range BuiltinRoles() {
		for _, priv := range privs {
			if !strings.Contains(strings.Join(Privileges(), " "), priv) {
				t.Errorf("role %s has unknown privilege %s", role, priv)
			}
		}
	}
}

func TestService(t *testing.T) {
	shadow := filepath.Join(t.TempDir(), "root.shadow")
	if err := os.WriteFile(shadow, []byte(hash5+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	st := storetest.NewMemory()
	keys, err := LoadKeys(ctx, st)
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadKeys(ctx, st)
	if err != nil || cmp.Diff(keys.mac, again.mac) != "" {
		t.Fatal("keys differ between loads", err)
	}
	s := NewService(keys, shadow, time.Now)
	if err := s.Follow(ctx, st, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if err := s.Login(ctx, Root, password); err != nil {
		t.Error(err)
	}
	ticket, csrf := s.Issue(Root)
	if err := s.Login(ctx, Root, ticket); err != nil {
		t.Errorf("renewal: %v", err)
	}
	if user, err := s.Ticket(ticket); user != Root || err != nil || s.CSRF(csrf, Root) != nil {
		t.Error(user, err)
	}
	for user, pw := range map[string]string{Root: "wrong", "root@pve": password, "x@pam": ticket} {
		if s.Login(ctx, user, pw) == nil {
			t.Errorf("%s logs in", user)
		}
	}
	sum := sha256.Sum256([]byte("0000-1111"))
	b, _ := json.Marshal(Policy{Tokens: map[string]Token{"root@pam!t": {Hash: hex.EncodeToString(sum[:])}}})
	if s.Token(Root, "t", "0000-1111") == nil {
		t.Error("unknown token accepted")
	}
	if _, err := st.Txn(ctx, nil, store.Op{Key: PolicyKey, Value: b}); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for s.Token(Root, "t", "0000-1111") != nil {
		if time.Now().After(deadline) {
			t.Fatal("token does not arrive")
		}
		time.Sleep(time.Millisecond)
	}
	if s.Token(Root, "t", "0000-1112") == nil {
		t.Error("wrong secret accepted")
	}
}

func FuzzTicket(f *testing.F) {
	k, _ := NewKeys(make([]byte, 32))
	now := time.Unix(1_800_000_000, 0)
	good := k.Mint(Root, now)
	f.Add(good)
	f.Add("PVE:%zz:6B49D200::x")
	f.Fuzz(func(t *testing.T, s string) {
		if user, err := k.Verify(s, now); err == nil && (s != good || user != Root) {
			t.Fatalf("accepted %q as %q", s, user)
		}
	})
}
