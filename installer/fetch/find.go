package fetch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"joist/installer/answer"
	"joist/internal/finding"
)

// Search is the kernel's argument joist.answer: which places are asked.
type Search struct {
	Kind   string        // one of the constants
	Label  string        // Partition: of the volume, "" for the usual ones
	Source answer.Source // URL: the server, empty for the medium's or the network's
}

// Kinds of a search.
const (
	Auto      = "auto"      // medium, server named by the medium, volume, network
	Medium    = "iso"       // the file on the medium
	Partition = "partition" // a labelled volume
	URL       = "url"       // a server
)

// ParseSearch reads the kernel's arguments joist.answer and
// joist.answer-fingerprint.
func ParseSearch(word, fingerprint string) (Search, finding.List) {
	var fs finding.List
	const path = "joist.answer"
	kind, label, labelled := strings.Cut(word, ":")
	switch {
	case word == "" || word == Auto:
		return Search{Kind: Auto, Source: answer.Source{Fingerprint: fingerprint}}, nil
	case word == Medium, word == Partition:
		return Search{Kind: word}, nil
	case word == URL:
		return Search{Kind: URL, Source: answer.Source{Fingerprint: fingerprint}}, nil
	case labelled && kind == Partition && label != "":
		return Search{Kind: Partition, Label: label}, nil
	case strings.HasPrefix(word, "http://"), strings.HasPrefix(word, "https://"):
		s := answer.Source{URL: word, Fingerprint: fingerprint, From: "the kernel's command line"}
		return Search{Kind: URL, Source: s}, s.Check(path)
	}
	fs.Stopf("answer-source-invalid", path, "use auto, iso, partition, partition:LABEL, url, or an http or https address", "joist.answer=%q is no place of an answer", word)
	return Search{}, fs
}

// Patience is how long a server is asked again, and Pauses how long is waited
// in between; the last one holds for all that follow.
const Patience = 10 * time.Minute

// Pauses of a search.
func Pauses() []time.Duration {
	return []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 15 * time.Second, 30 * time.Second}
}

// Network is how Finder reaches servers.
type Network interface {
	// Offers asks for a lease on every card that has a link and none yet. The
	// error says which cards had no answer; offers beside it are good.
	Offers(ctx context.Context) ([]Offer, error)
	TXT(ctx context.Context, o Offer, name string) ([]string, error)
	Post(ctx context.Context, s answer.Source) (Reply, error)
}

// Finder asks for the answer until it has it, knows that there is none, or is
// out of patience.
type Finder struct {
	Net   Network
	Say   func(format string, args ...any)                // progress, a line each
	Sleep func(ctx context.Context, d time.Duration) bool // false: interrupted
	Now   func() time.Time
	// Else, before each further try, says that the answer is at another place by
	// now: Find ends without one. nil: there is no other place.
	Else func() bool
}

// errNobody says that the networks answer and name no server.
var errNobody = errors.New("neither DHCP option 250 nor DNS names an answer server")

// Find gets an answer from a server: s, or when it has no address the one that
// the network names.
func (f Finder) Find(ctx context.Context, s answer.Source) (Reply, answer.Source, finding.List) {
	var fs finding.List
	end := f.Now().Add(Patience)
	for try := 1; ; try++ {
		from, r, err := f.once(ctx, s)
		var bad invalid
		switch {
		case err == nil:
			f.Say("The answer came from %s (%s).", host(from.URL), from.From)
			return r, from, nil
		case errors.As(err, &bad):
			return r, from, bad.list
		case errors.Is(err, errNobody):
			fs.Stopf("answer-not-found", "network", "put the answer into the medium (joist build iso --answer FILE), attach a volume with it, or have DHCP option 250 name a server", "%v", err)
			return r, from, fs
		case Final(err):
			fs.Stopf("answer-refused", host(from.URL), cure(err), "%v", err)
			return r, from, fs
		}
		pauses := Pauses()
		pause := pauses[min(try, len(pauses))-1]
		left := end.Sub(f.Now())
		if left <= pause {
			fs.Stopf("answer-server-silent", host(from.URL), cure(err), "no answer within %v, %d tries; the last one: %v", Patience, try, err)
			return r, from, fs
		}
		f.Say("No answer yet (try %d): %v. Next try in %v, for another %v.", try, err, pause, left.Round(time.Second))
		if !f.Sleep(ctx, pause) {
			fs.Stopf("answer-server-silent", host(from.URL), "start the installation again", "the search was interrupted")
			return r, from, fs
		}
		if f.Else != nil && f.Else() {
			return r, from, nil
		}
	}
}

// once makes one try; a source that cannot be used is a finding.List.
func (f Finder) once(ctx context.Context, s answer.Source) (answer.Source, Reply, error) {
	offers, waits := f.Net.Offers(ctx)
	if len(offers) == 0 && waits != nil {
		return s, Reply{}, waits
	}
	if s.URL == "" {
		found, err := f.discover(ctx, offers)
		if errors.Is(err, errNobody) && waits != nil { // another card's lease may name one
			err = waits
		}
		if err != nil {
			return s, Reply{}, err
		}
		if s.Fingerprint != "" { // what a person gave counts more
			found.Fingerprint = s.Fingerprint
		}
		s = found
		if fs := s.Check(s.From); fs.Stops() {
			return s, Reply{}, invalid{fs}
		}
	}
	r, err := f.Net.Post(ctx, s)
	return s, r, err
}

// invalid is a source that cannot be used, as an error.
type invalid struct{ list finding.List }

func (e invalid) Error() string { return e.list.Err().Error() }

// discover looks for the server's name: first in every lease, then in DNS. The
// fingerprint comes by the same way as the address, or not at all.
func (f Finder) discover(ctx context.Context, offers []Offer) (answer.Source, error) {
	for _, o := range offers {
		if s, ok := o.Source(); ok {
			return s, nil
		}
	}
	var silent error
	for _, o := range offers {
		for _, d := range o.Domains {
			urls, err := f.Net.TXT(ctx, o, txtURL+d)
			if err != nil && !missing(err) {
				silent = fmt.Errorf("ask DNS for %s%s: %w", txtURL, d, err)
			}
			if err != nil || len(urls) == 0 {
				continue
			}
			pins, err := f.Net.TXT(ctx, o, txtFingerprint+d)
			if err != nil && !missing(err) {
				return answer.Source{}, fmt.Errorf("ask DNS for %s%s: %w", txtFingerprint, d, err)
			}
			s, err := fromTXT(d, urls, pins)
			if err != nil {
				var fs finding.List
				fs.Stopf("answer-source-invalid", s.From, "leave one record", "%v", err)
				return s, invalid{fs}
			}
			return s, nil
		}
	}
	if silent != nil {
		return answer.Source{}, silent
	}
	return answer.Source{}, errNobody
}

// missing says that DNS knows no such record.
func missing(err error) bool {
	var d *net.DNSError
	return errors.As(err, &d) && d.IsNotFound
}

// host is what may be shown of an address: its path and query may be secret.
func host(v string) string {
	u, err := answer.WebAddress(v)
	if err != nil {
		return "answer server"
	}
	return u.Scheme + "://" + u.Host
}
