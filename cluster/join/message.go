package join

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"joist/cluster/roster"
	"joist/internal/finding"
)

// Paths of the exchange.
const (
	PathHello  = "/joist/v1/join/hello"
	PathCommit = "/joist/v1/join/commit"
	PathAbort  = "/joist/v1/join/abort"
)

// Signed is a message with the proof that its sender knows the token. The
// message travels as the bytes that were signed: a reader that knows fewer
// fields than the writer still checks the same bytes.
type Signed struct {
	Message json.RawMessage `json:"message"`
	Proof   []byte          `json:"proof"`
}

// Hello is the joiner's first message. Nothing changes by it.
type Hello struct {
	TokenID        string            `json:"token_id"`
	Nonce          []byte            `json:"nonce"`
	Time           time.Time         `json:"time"`
	Authority      string            `json:"authority"` // fingerprint of the authority that the joiner sees
	Version        string            `json:"version"`   // of Joist
	Store          string            `json:"store"`     // of the store's program (etcd)
	Name           string            `json:"name"`
	InstallationID string            `json:"installation_id"`
	Addresses      []string          `json:"addresses"`
	CSR            []byte            `json:"csr"` // PKCS #10, DER
	Guests         []json.RawMessage `json:"guests"`
	Storages       []json.RawMessage `json:"storages"`
}

// HelloReply is what the voter says to it.
type HelloReply struct {
	Nonce     []byte         `json:"nonce"`
	Time      time.Time      `json:"time"`
	Cluster   roster.Cluster `json:"cluster"`
	Node      string         `json:"node"` // who answers
	Findings  finding.List   `json:"findings"`
	Clashes   []Clash        `json:"clashes"`             // VMIDs that are taken
	Taken     []int          `json:"taken"`               // all VMIDs of the cluster
	Committed bool           `json:"committed,omitempty"` // this key's join is committed already
}

// Clash is one VMID that exists on both sides.
type Clash struct {
	VMID  int    `json:"vmid"`
	Kind  string `json:"kind"`
	Name  string `json:"name,omitempty"`
	Node  string `json:"node"`  // whose it is in the cluster
	Guest string `json:"guest"` // its name there
	Free  int    `json:"free"`  // a VMID that is free on both sides
}

// Commit makes the join of the hello with that nonce real.
type Commit struct {
	TokenID string            `json:"token_id"`
	Nonce   []byte            `json:"nonce"`
	Guests  []json.RawMessage `json:"guests"` // renumbered
}

// Admission is the answer to a commit: what a node needs to be one of the
// cluster's.
type Admission struct {
	Certificate []byte         `json:"certificate"` // DER
	Authority   []byte         `json:"authority"`   // DER
	Cluster     roster.Cluster `json:"cluster"`
	Nodes       []roster.Node  `json:"nodes"` // all, the new one too
}

// Abort takes a commit back, or sees to it that one under way comes to
// nothing.
type Abort struct {
	TokenID string `json:"token_id"`
	Key     string `json:"key_sha256"`
	Node    string `json:"node"`
}

// Refused is an answer that says no, with all reasons. What was asked for has
// not happened.
type Refused struct{ Findings finding.List }

func (r *Refused) Error() string {
	texts := make([]string, 0, len(r.Findings))
	for _, f := range r.Findings {
		if f.Level == finding.Stop {
			texts = append(texts, f.Text)
		}
	}
	return strings.Join(texts, "; ")
}

// Has reports whether one of the reasons has the code.
func (r *Refused) Has(code string) bool {
	for _, f := range r.Findings {
		if f.Code == code {
			return true
		}
	}
	return false
}

// only reports whether all reasons have the code.
func (r *Refused) only(code string) bool {
	for _, f := range r.Findings {
		if f.Level == finding.Stop && f.Code != code {
			return false
		}
	}
	return r.Has(code)
}

func refuse(code, path, hint, format string, args ...any) *Refused {
	var l finding.List
	l.Stopf(code, path, hint, format, args...)
	return &Refused{l}
}

// seal signs a message.
func seal(key []byte, purpose string, message any, before ...[]byte) Signed {
	b := mustJSON(message)
	return Signed{Message: b, Proof: proof(key, purpose, append(before, b)...)}
}

// open reads a message strictly enough to notice a foreign one; unknown fields
// are a newer sender's.
func open[T any](s Signed) (T, error) {
	var v T
	if len(bytes.TrimSpace(s.Message)) == 0 {
		return v, errors.New("the message is empty")
	}
	if err := json.Unmarshal(s.Message, &v); err != nil {
		return v, fmt.Errorf("the message cannot be read: %w", err)
	}
	return v, nil
}
