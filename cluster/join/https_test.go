package join

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"joist/cluster/pki"
	"joist/cluster/roster"
)

// door is a node's port: the API's certificate, or the node's with its
// authority for who asks for the join name.
type door struct {
	addr    string
	api     *x509.Certificate
	handler http.Handler // changed by tests between requests
}

func nodeCert(t testing.TB, ca *pki.Authority, name string) tls.Certificate {
	t.Helper()
	key := newKey(t)
	csr, err := pki.NewRequest(key, name)
	if err != nil {
		t.Fatal(err)
	}
	der, err := ca.Issue(csr, name, noon)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der, ca.Certificate().Raw}, PrivateKey: key}
}

func apiCert(t testing.TB) (tls.Certificate, *x509.Certificate) {
	t.Helper()
	key := newKey(t)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "n1.example"}, DNSNames: []string{"n1.example"},
		NotBefore: noon, NotAfter: noon.AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, c
}

func listen(t testing.TB, ca *pki.Authority, h http.Handler) *door {
	t.Helper()
	api, leaf := apiCert(t)
	d := &door{api: leaf, handler: h}
	node := &tls.Config{Certificates: []tls.Certificate{nodeCert(t, ca, "n1")}, MinVersion: tls.VersionTLS13}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS.ServerName != roster.JoinName {
			http.NotFound(w, r)
			return
		}
		d.handler.ServeHTTP(w, r)
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{api}, GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		if h.ServerName == roster.JoinName {
			return node, nil
		}
		return nil, nil
	}}
	s.Config.ErrorLog = nil
	s.StartTLS()
	t.Cleanup(s.Close)
	d.addr = s.Listener.Addr().String()
	return d
}

// over is n2's joiner over HTTPS.
func (w *world) over(t testing.TB, address, fingerprint, token string, key *ecdsa.PrivateKey) *Joiner {
	t.Helper()
	j := w.joiner(token, key)
	j.Client = &HTTPS{Addresses: []string{address}, Fingerprint: fingerprint}
	return j
}

func (w *world) fingerprint() string { return pki.Fingerprint(w.ca.Certificate().Raw) }

func TestHTTPS(t *testing.T) {
	w := newWorld(t)
	d := listen(t, w.ca, w.voter.Handler())
	before := w.dump()
	text, key := w.token(""), newKey(t)
	for what, fp := range map[string]string{"authority": w.fingerprint(), "API": pki.Fingerprint(d.api.Raw)} {
		p, err := w.over(t, d.addr, strings.ToLower(fp), text, nil).Check(t.Context(), brought(t), Want{})
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		stopsWith(t, what, p.Findings, "vmid-clash")
		if len(p.Clashes) != 1 || p.Clashes[0].Free != 101 || p.Clashes[0].Guest != "db" || p.Authority != w.fingerprint() || !maps.Equal(before, w.dump()) {
			t.Errorf("%s: %+v", what, p)
		}
	}
	j := w.over(t, d.addr, w.fingerprint(), text, key)
	_, err := j.Commit(t.Context(), brought(t))
	refusedWith(t, "unresolved", err, "vmid-clash")
	p, err := j.Check(t.Context(), brought(t), Want{IDs: map[int]int{100: 300}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := j.Commit(t.Context(), p.Records); err != nil {
		t.Fatal(err)
	}
	wantJoined(t, before, w.dump(), 300)
	_, err = w.over(t, d.addr, w.fingerprint(), text, newKey(t)).Commit(t.Context(), Records{})
	refusedWith(t, "token used twice", err, "token-used")
	if err := j.Abort(t.Context()); err != nil || !maps.Equal(before, w.dump()) {
		t.Errorf("abort: %v", err)
	}
}

// TestRefusals: each refusal goes over the line with its code and cure.
func TestRefusals(t *testing.T) {
	tests := []struct {
		name  string
		setup func(*world, *Joiner)
		codes []string
	}{
		{"expired", func(w *world, _ *Joiner) { w.pass(2 * TokenLife) }, []string{"token-expired"}},
		{"clocks ten minutes apart", func(w *world, j *Joiner) {
			j.Now = func() time.Time { return w.now().Add(-10 * time.Minute) }
		}, []string{"clock-skew", "vmid-clash"}},
		{"name", func(_ *world, j *Joiner) { j.Self.Name = "n1" }, []string{"name-taken", "vmid-clash"}},
		{"secret", func(_ *world, j *Joiner) { j.Secret.key = tokenKey("x") }, []string{"proof-wrong"}},
	}
	for _, tt := range tests {
		w := newWorld(t)
		d := listen(t, w.ca, w.voter.Handler())
		j := w.over(t, d.addr, w.fingerprint(), w.token(""), newKey(t))
		tt.setup(w, j)
		before := w.dump()
		_, err := j.Commit(t.Context(), brought(t))
		refusedWith(t, tt.name, err, tt.codes...)
		if !maps.Equal(before, w.dump()) {
			t.Errorf("%s: something changed", tt.name)
		}
	}
	// Without quorum nothing is known to have happened: it is asked again.
	w := newWorld(t)
	w.voter.Store = noQuorum{w.store}
	d := listen(t, w.ca, w.voter.Handler())
	_, err := w.over(t, d.addr, w.fingerprint(), w.token(""), newKey(t)).Commit(t.Context(), Records{})
	if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "cannot decide") {
		t.Errorf("no quorum: %v", err)
	}
	for what, body := range map[string]string{"no JSON": "x", "nothing": "{}", "no nonce": `{"message":{"token_id":"aaaaaaaa"}}`} {
		rec := httptest.NewRecorder()
		w.voter.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodPost, PathHello, strings.NewReader(body)))
		if rec.Code != http.StatusBadRequest || !strings.Contains(rec.Body.String(), `"code":"message-invalid"`) || !strings.HasPrefix(rec.Body.String(), "[") {
			t.Errorf("%s: %d %s", what, rec.Code, rec.Body)
		}
	}
}

// middle is a man in the middle with an authority of his own, who passes on to
// the real voter what he does not answer himself.
func middle(t *testing.T, real string, tamper func(path string, body []byte) []byte) *door {
	t.Helper()
	own, err := pki.New("ffffffffffffffff", noon)
	if err != nil {
		t.Fatal(err)
	}
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{ServerName: roster.JoinName, InsecureSkipVerify: true},
		DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return net.Dial("tcp", real) }}}
	d := listen(t, own, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if out := tamper(r.URL.Path, body); out != nil {
			w.Write(out)
			return
		}
		resp, err := c.Post("https://"+roster.JoinName+r.URL.Path, "application/json", bytes.NewReader(body))
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		io.Copy(w, resp.Body)
	}))
	d.handler = withAuthority{d.handler, pki.Fingerprint(own.Certificate().Raw)}
	return d
}

type withAuthority struct {
	http.Handler
	fingerprint string
}

// TestManInTheMiddle: whichever fingerprint the person was given, nobody in
// between gets a node to join him or the cluster through him.
func TestManInTheMiddle(t *testing.T) {
	w := newWorld(t)
	d := listen(t, w.ca, w.voter.Handler())
	before := w.dump()
	relay := func(string, []byte) []byte { return nil }
	text := w.token("")

	// The real fingerprint: he cannot show that certificate.
	m := middle(t, d.addr, relay)
	his := m.handler.(withAuthority).fingerprint
	_, err := w.over(t, m.addr, w.fingerprint(), text, newKey(t)).Commit(t.Context(), brought(t))
	var bad *FingerprintError
	if !errors.As(err, &bad) || !errors.Is(err, ErrStranger) || bad.Want != w.fingerprint() || bad.Authority != his ||
		!strings.Contains(err.Error(), w.fingerprint()) || !strings.Contains(err.Error(), his) {
		t.Errorf("wrong fingerprint: %v", err)
	}

	// His own fingerprint, passed to the person instead of the real one: the
	// cluster notices, because the joiner says what it sees.
	_, err = w.over(t, m.addr, his, text, newKey(t)).Commit(t.Context(), brought(t))
	refusedWith(t, "relayed", err, "man-in-the-middle")

	// So he answers himself: he does not know the token.
	liar := middle(t, d.addr, func(path string, body []byte) []byte {
		return mustJSON(seal(tokenKey("guess"), proveVoter, HelloReply{Nonce: nonce(), Time: noon}))
	})
	_, err = w.over(t, liar.addr, liar.handler.(withAuthority).fingerprint, text, newKey(t)).Commit(t.Context(), brought(t))
	if !errors.Is(err, ErrStranger) || !strings.Contains(err.Error(), "does not know the token") {
		t.Errorf("made-up answer: %v", err)
	}

	// Changing what the joiner says it sees breaks its proof.
	forger := middle(t, d.addr, relay)
	hisToo := forger.handler.(withAuthority).fingerprint
	forger.handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		body = bytes.ReplaceAll(body, []byte(hisToo), []byte(w.fingerprint()))
		w.voter.Handler().ServeHTTP(rw, httptest.NewRequest(r.Method, r.URL.Path, bytes.NewReader(body)))
	})
	_, err = w.over(t, forger.addr, hisToo, text, newKey(t)).Commit(t.Context(), brought(t))
	refusedWith(t, "forged", err, "proof-wrong")

	// Stepping in after the certificate was looked at.
	late := w.over(t, d.addr, w.fingerprint(), text, newKey(t))
	late.Client = &stepsIn{late.Client.(*HTTPS), m.addr}
	if _, err = late.Commit(t.Context(), brought(t)); !errors.As(err, &bad) || bad.Authority != his {
		t.Errorf("stepping in late: %v", err)
	}

	// Nobody who is a node at all.
	plain := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	for what, fp := range map[string]string{"any": w.fingerprint(), "its own": pki.Fingerprint(plain.Certificate().Raw)} {
		if _, err := w.over(t, plain.Listener.Addr().String(), fp, text, nil).Check(t.Context(), Records{}, auto); !errors.Is(err, ErrStranger) {
			t.Errorf("a web server, fingerprint %s: %v", what, err)
		}
	}
	if tok, _ := w.theToken(); !maps.Equal(before, w.dump()) || tok.Bound != "" || tok.Burnt {
		t.Error("something changed")
	}
}

// stepsIn leads every connection but the first somewhere else.
type stepsIn struct {
	*HTTPS
	to string
}

func (s *stepsIn) Connect(ctx context.Context) (string, error) {
	a, err := s.HTTPS.Connect(ctx)
	s.address = s.to
	return a, err
}

// TestSplit: a man in the middle who lets connections through that ask for no
// name, so that the API's certificate is the real one.
func TestSplit(t *testing.T) {
	w := newWorld(t)
	d := listen(t, w.ca, w.voter.Handler())
	m := middle(t, d.addr, func(string, []byte) []byte { return nil })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				first := make([]byte, 16<<10)
				n, _ := c.Read(first)
				to := d.addr
				if bytes.Contains(first[:n], []byte(roster.JoinName)) {
					to = m.addr
				}
				s, err := net.Dial("tcp", to)
				if err != nil {
					return
				}
				defer s.Close()
				s.Write(first[:n])
				go io.Copy(s, c)
				io.Copy(c, s)
			}()
		}
	}()
	_, err = w.over(t, ln.Addr().String(), pki.Fingerprint(d.api.Raw), w.token(""), newKey(t)).Commit(t.Context(), brought(t))
	refusedWith(t, "split", err, "man-in-the-middle")
}

// TestCut: the connection breaks before the commit arrives, after it was made,
// and in the middle of the answer; each time asking again brings the same.
func TestCut(t *testing.T) {
	for _, tt := range []struct {
		name string
		made bool
		cut  func(real http.Handler, w http.ResponseWriter, r *http.Request)
	}{
		{"before", false, func(_ http.Handler, w http.ResponseWriter, _ *http.Request) { hangUp(w, nil) }},
		{"after", true, func(real http.Handler, w http.ResponseWriter, r *http.Request) {
			real.ServeHTTP(httptest.NewRecorder(), r)
			hangUp(w, nil)
		}},
		{"in the answer", true, func(real http.Handler, w http.ResponseWriter, r *http.Request) {
			rec := httptest.NewRecorder()
			real.ServeHTTP(rec, r)
			hangUp(w, rec.Body.Bytes()[:rec.Body.Len()/2])
		}},
	} {
		w := newWorld(t)
		real := w.voter.Handler()
		d := listen(t, w.ca, real)
		d.handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path == PathCommit {
				tt.cut(real, rw, r)
				return
			}
			real.ServeHTTP(rw, r)
		})
		text, before := w.token(""), w.dump()
		j := w.over(t, d.addr, w.fingerprint(), text, newKey(t))
		p, err := j.Check(t.Context(), brought(t), auto)
		if err != nil {
			t.Fatal(err)
		}
		_, err = j.Commit(t.Context(), p.Records)
		if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "the connection ended") {
			t.Errorf("%s: %v", tt.name, err)
		}
		tok, _ := w.theToken()
		if (tok.Bound != "") != tt.made {
			t.Errorf("%s: token bound to %q", tt.name, tok.Bound)
		}
		d2 := listen(t, w.ca, w.newVoter().Handler()) // another node answers the repeat
		j.Client = &HTTPS{Addresses: []string{d.addr[:strings.LastIndex(d.addr, ":")] + ":1", d2.addr}, Fingerprint: w.fingerprint()}
		a, err := j.Commit(t.Context(), p.Records)
		if err != nil || tt.made && !bytes.Equal(a.Certificate, tok.Certificate) {
			t.Errorf("%s: repeated: %v", tt.name, err)
		}
		wantJoined(t, before, w.dump(), 101)
		_, err = w.over(t, d2.addr, w.fingerprint(), text, newKey(t)).Commit(t.Context(), p.Records)
		refusedWith(t, tt.name, err, "token-used")
	}
}

// hangUp ends a connection after part of an answer.
func hangUp(w http.ResponseWriter, part []byte) {
	c, b, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	if part != nil {
		b.WriteString("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
		b.Write(part)
		b.Flush()
	}
	c.Close()
}

func TestUnreachable(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	w := newWorld(t)
	_, err = w.over(t, addr, w.fingerprint(), w.token(""), nil).Check(t.Context(), Records{}, auto)
	if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), addr) {
		t.Errorf("%v", err)
	}
	if _, err := w.over(t, addr, "AA:BB", w.token(""), nil).Check(t.Context(), Records{}, auto); err == nil || !strings.Contains(err.Error(), "2 bytes") {
		t.Errorf("short fingerprint: %v", err)
	}
}

// TestWire holds the field names: nodes of different versions speak to each
// other.
func TestWire(t *testing.T) {
	got := func(v any) string {
		var m map[string]json.RawMessage
		if err := json.Unmarshal(mustJSON(v), &m); err != nil {
			t.Fatal(err)
		}
		return strings.Join(slices.Sorted(maps.Keys(m)), " ")
	}
	for want, v := range map[string]any{
		"message proof": Signed{Message: json.RawMessage("{}")},
		"addresses authority csr guests installation_id name nonce storages store time token_id version": Hello{},
		"clashes cluster findings node nonce taken time":                                                 HelloReply{},
		"guests nonce token_id":               Commit{},
		"authority certificate cluster nodes": Admission{},
		"key_sha256 node token_id":            Abort{},
		"free guest kind node vmid":           Clash{},
		"created expires id key":              Token{},
		"address fingerprint renumber token":  Ask{},
		"from storage to":                     Rename{},
		"key rev":                             Revision{},
	} {
		if g := got(v); g != want {
			t.Errorf("%T has %s", v, g)
		}
	}
}
