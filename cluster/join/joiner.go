package join

import (
	"context"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"joist/cluster/pki"
	"joist/cluster/roster"
	"joist/internal/finding"
)

// Self is who the joining node is.
type Self struct {
	Name           string
	InstallationID string
	Version        string // of Joist
	StoreProg      string // version of the store's program
	Addresses      []string
}

// Joiner asks a voter to be let in.
type Joiner struct {
	Client Client
	Secret Secret
	Self   Self
	Key    *ecdsa.PrivateKey // nil: one for this conversation only
	Now    func() time.Time
	// Authority is the fingerprint that an earlier hello has proven; empty:
	// none yet.
	Authority string
}

// Preview is what a join would do.
type Preview struct {
	Cluster   roster.Cluster
	Node      string // who answered
	Authority string // proven to belong to who knows the token
	Findings  finding.List
	Clashes   []Clash
	Records   Records // as they would be committed
	IDs       map[int]int
	Renames   []Rename
}

// Check says hello and shows what would come of a join: nothing is changed on
// either side. A refusal of the token is a *Refused error, all else that stands
// against the join is in the findings.
func (j *Joiner) Check(ctx context.Context, r Records, want Want) (Preview, error) {
	t, err := j.hello(ctx, r)
	if err != nil {
		return Preview{}, err
	}
	p := Preview{Cluster: t.reply.Cluster, Node: t.reply.Node, Authority: t.authority, Clashes: t.reply.Clashes, Findings: t.reply.Findings}
	var list finding.List
	p.Records, p.IDs, p.Renames, list = Renumber(r, want, t.reply.Taken)
	open := slices.DeleteFunc(slices.Clone(p.Clashes), func(c Clash) bool { return p.IDs[c.VMID] != 0 })
	p.Findings = slices.Concat(p.Findings, list, clashFindings(open))
	return p, nil
}

// talk is a hello that was answered by somebody who knows the token.
type talk struct {
	reply      HelloReply
	authority  string
	nonce      []byte
	transcript []byte
}

func (j *Joiner) hello(ctx context.Context, r Records) (talk, error) {
	authority, err := j.connect(ctx)
	if err != nil {
		return talk{}, err
	}
	key := j.Key
	if key == nil {
		if key, err = pki.NewKey(); err != nil {
			return talk{}, err
		}
	}
	csr, err := pki.NewRequest(key, j.Self.Name)
	if err != nil {
		return talk{}, err
	}
	h := Hello{TokenID: j.Secret.ID, Nonce: nonce(), Time: j.Now().UTC(), Authority: authority, Version: j.Self.Version, Store: j.Self.StoreProg,
		Name: j.Self.Name, InstallationID: j.Self.InstallationID, Addresses: j.Self.Addresses, CSR: csr}
	h.Guests, h.Storages = r.raws()
	ask := seal(j.Secret.key, proveHello, h)
	answer, err := j.Client.Hello(ctx, ask)
	if err != nil {
		return talk{}, err
	}
	if !hmac.Equal(answer.Proof, proof(j.Secret.key, proveVoter, ask.Message, answer.Message)) {
		return talk{}, fmt.Errorf("what answers does not know the token: somebody stands between, or it is another cluster's: %w", ErrStranger)
	}
	reply, err := open[HelloReply](answer)
	if err != nil || len(reply.Nonce) != nonceSize {
		return talk{}, fmt.Errorf("read the answer to hello: %w", errors.Join(err, ErrStranger))
	}
	// The voter compares clocks when it hears, this side when the answer is
	// here: a slow line is not a wrong clock, so the middle counts.
	mid := h.Time.Add(j.Now().UTC().Sub(h.Time) / 2)
	if skew := checkClock(mid, reply.Time); !reply.Committed && !(&Refused{reply.Findings}).Has("clock-skew") {
		reply.Findings = append(reply.Findings, skew...)
	}
	return talk{reply, authority, h.Nonce, digest(ask.Message, answer.Message)}, nil
}

func (j *Joiner) connect(ctx context.Context) (string, error) {
	got, err := j.Client.Connect(ctx)
	if err == nil && j.Authority != "" && got != j.Authority {
		return "", &FingerprintError{Address: "what answers", Want: j.Authority, Authority: got}
	}
	return got, err
}

// Commit asks to be let in with these records, which are renumbered already.
// With the same key and records it can be repeated.
func (j *Joiner) Commit(ctx context.Context, r Records) (Admission, error) {
	a, err := j.commit(ctx, r)
	var no *Refused
	if errors.As(err, &no) && no.Has("hello-missing") {
		// The voter was restarted in between, or another one answered.
		if a, err = j.commit(ctx, r); errors.As(err, &no) && no.Has("hello-missing") {
			return a, fmt.Errorf("commit join: %w: %w", ErrUnreachable, err)
		}
	}
	return a, err
}

func (j *Joiner) commit(ctx context.Context, r Records) (Admission, error) {
	t, err := j.hello(ctx, r)
	if err != nil {
		return Admission{}, err
	}
	if list := slices.Concat(t.reply.Findings, clashFindings(t.reply.Clashes)); list.Stops() {
		return Admission{}, &Refused{list}
	}
	c := Commit{TokenID: j.Secret.ID, Nonce: t.nonce}
	c.Guests, _ = r.raws()
	a, err := j.Client.Commit(ctx, seal(j.Secret.key, proveJoiner, c, t.transcript))
	if err != nil {
		return Admission{}, err
	}
	if err := j.checkAdmission(a, t.authority); err != nil {
		return Admission{}, fmt.Errorf("check what the cluster sent: %w: %w", err, ErrStranger)
	}
	return a, nil
}

// checkAdmission makes sure that the certificate is for this node's key and
// signed by the authority that was proven.
func (j *Joiner) checkAdmission(a Admission, authority string) error {
	if pki.Fingerprint(a.Authority) != authority {
		return errors.New("the authority is another one than that of the connection")
	}
	ca, err := x509.ParseCertificate(a.Authority)
	if err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(a.Certificate)
	if err != nil {
		return err
	}
	p, err := pki.VerifyPeer([]*x509.Certificate{cert}, ca, j.Now())
	if err != nil {
		return err
	}
	if p.Node != j.Self.Name || !j.Key.PublicKey.Equal(cert.PublicKey) {
		return fmt.Errorf("the certificate is for node %s or for another key", p.Node)
	}
	return nil
}

// Abort calls the join off. A cluster that does not know the token has nothing
// of it.
func (j *Joiner) Abort(ctx context.Context) error {
	if _, err := j.connect(ctx); err != nil {
		return err
	}
	sum, err := pki.KeySum(j.Key.Public())
	if err != nil {
		return err
	}
	err = j.Client.Abort(ctx, seal(j.Secret.key, proveAbort, Abort{TokenID: j.Secret.ID, Key: sum, Node: j.Self.Name}))
	var no *Refused
	if errors.As(err, &no) && no.Has("token-unknown") {
		return nil
	}
	return err
}
