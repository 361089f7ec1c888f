package wizard

import (
	"errors"
	"io"
	"strings"
	"testing"

	"joist/installer/probe"
)

// paper answers from a list and keeps what was printed.
type paper struct {
	replies []string
	out     strings.Builder
}

func (p *paper) Print(s string) { p.out.WriteString(s) }
func (p *paper) Line() (string, error) {
	if len(p.replies) == 0 {
		return "", io.EOF
	}
	r := p.replies[0]
	p.replies = p.replies[1:]
	return r, nil
}
func (p *paper) Secret() (string, error) { return p.Line() }

func facts() probe.Facts {
	return probe.Facts{
		Disks: []probe.Disk{{Name: "vda", Size: 64e9, Sector: 512}, {Name: "vdb", Size: 1e9, Sector: 512},
			{Name: "vdc", Size: 64e9, Sector: 512, Installation: &probe.Installation{ID: "0123456789abcdef"}}},
		NICs: []probe.NIC{{Name: "eth0", MAC: "52:54:00:00:00:01", Carrier: "up"}},
	}
}

func TestAsk(t *testing.T) {
	for _, c := range []struct {
		name    string
		replies []string
		want    string // of the answer, "" when Ask fails
		said    string
	}{
		{"dhcp", []string{"9", "2", "1", "bad_name", "n1.lab", "AT", "", "de", "", "short", "longenough", "different", "longenough", "longenough", ""},
			`disk-list = ["vda"]`, "The two are not the same"},
		{"static", []string{"1", "", "", "", "", "", "longenough", "longenough", "static", "eth9", "", "192.0.2.0/24", "192.0.2.5/24", "198.51.100.1", "192.0.2.1", "192.0.2.1"},
			`cidr = "192.0.2.5/24"`, "outside the network"},
		{"replace", []string{"3", "0123456789abcdef", "", "", "", "", "", "longenough", "longenough", "dhcp"}, `installation = "0123456789abcdef"`, "Type its id"},
		{"not replaced", []string{"3", "no"}, "", "Type its id"},
		{"line lost", []string{"1", "n1.lab"}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &paper{replies: c.replies}
			a, err := Ask(p, facts())
			if (err == nil) != (c.want != "") || !strings.Contains(a.String(), c.want) || !strings.Contains(p.out.String(), c.said) {
				t.Errorf("%v\n%s\n%s", err, a, p.out.String())
			}
			if fs := a.Validate(); c.want != "" && fs.Stops() {
				t.Error(fs)
			}
		})
	}
}

func TestConfirm(t *testing.T) {
	if err := Confirm(&paper{replies: []string{"yes"}}, "plan"); err != nil {
		t.Error(err)
	}
	if err := Confirm(&paper{replies: []string{"y"}}, "plan"); !errors.Is(err, ErrDeclined) {
		t.Error(err)
	}
}
