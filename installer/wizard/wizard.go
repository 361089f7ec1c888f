// Package wizard asks a person for an answer, line by line: it works on a
// serial line, in a browser's console and on paper terminals alike. It makes
// the same answer.Answer that a file gives and checks it by the same rules.
package wizard

import (
	"errors"
	"fmt"
	"strings"

	"joist/installer/answer"
	"joist/installer/probe"
	"joist/internal/finding"
)

// Terminal is where the person sits. Secret reads a line without echo.
type Terminal interface {
	Print(s string)
	Line() (string, error)
	Secret() (string, error)
}

// ErrDeclined says that the person did not confirm.
var ErrDeclined = errors.New("the installation was not confirmed; nothing was written")

// question is one prompt. set takes the reply; the findings that Validate then
// has about key are shown, and the question is asked again.
type question struct {
	key, prompt, proposal string
	secret                bool
	set                   func(a *answer.Answer, reply string)
}

// Ask asks everything but the confirmation.
func Ask(t Terminal, f probe.Facts) (answer.Answer, error) {
	var a answer.Answer
	a.Network.Source = answer.FromDHCP
	if err := askDisks(t, f, &a); err != nil {
		return a, err
	}
	for _, q := range []question{
		{"global.fqdn", "Host name with domain", proposedName(f), false, func(a *answer.Answer, s string) { a.Global.FQDN = s }},
		{"global.country", "Country (two letters)", "at", false, func(a *answer.Answer, s string) { a.Global.Country = strings.ToLower(s) }},
		{"global.timezone", "Time zone", "UTC", false, func(a *answer.Answer, s string) { a.Global.Timezone = s }},
		{"global.keyboard", "Keyboard (" + strings.Join(answer.Keyboards(), " ") + ")", "en-us", false, func(a *answer.Answer, s string) { a.Global.Keyboard = s }},
		{"global.mailto", "Mail address for reports", "root@localhost.localdomain", false, func(a *answer.Answer, s string) { a.Global.MailTo = s }},
	} {
		if err := ask(t, &a, q); err != nil {
			return a, err
		}
	}
	if err := askPassword(t, &a); err != nil {
		return a, err
	}
	return a, askNetwork(t, f, &a)
}

// proposedName is what DHCP calls the machine.
func proposedName(f probe.Facts) string {
	for _, l := range f.Leases {
		if l.Host != "" && l.Domain != "" {
			return l.Host + "." + l.Domain
		}
	}
	return "joist.local"
}

func ask(t Terminal, a *answer.Answer, q question) error {
	for {
		if q.proposal != "" {
			t.Print(fmt.Sprintf("%s [%s]: ", q.prompt, q.proposal))
		} else {
			t.Print(q.prompt + ": ")
		}
		read := t.Line
		if q.secret {
			read = t.Secret
		}
		reply, err := read()
		if err != nil {
			return fmt.Errorf("ask for %s: %w", q.key, err)
		}
		if !q.secret {
			reply = strings.TrimSpace(reply)
		}
		if reply == "" {
			reply = q.proposal
		}
		if q.set(a, reply); show(t, about(a.Validate(), q.key)) {
			return nil
		}
	}
}

func about(fs finding.List, key string) finding.List {
	var out finding.List
	for _, f := range fs {
		if f.Path == key {
			out = append(out, f)
		}
	}
	return out
}

// show prints findings and says whether the work may go on.
func show(t Terminal, fs finding.List) bool {
	for _, f := range fs {
		t.Print(f.String() + "\n")
	}
	return !fs.Stops()
}

func askPassword(t Terminal, a *answer.Answer) error {
	for {
		if err := ask(t, a, question{"global.root-password", "Password of root (8 characters or more, not shown)", "", true,
			func(a *answer.Answer, s string) { a.Global.RootPassword = answer.Secret(s) }}); err != nil {
			return err
		}
		t.Print("The password again: ")
		again, err := t.Secret()
		if err != nil {
			return fmt.Errorf("ask for the password again: %w", err)
		}
		if again == a.Global.RootPassword.Reveal() {
			return nil
		}
		t.Print("The two are not the same.\n")
	}
}

func askNetwork(t Terminal, f probe.Facts, a *answer.Answer) error {
	method := "dhcp"
	for {
		t.Print("\nNetwork cards:\n")
		for _, n := range f.NICs {
			t.Print(fmt.Sprintf("  %s  %s  link %s\n", n.Name, n.MAC, n.Carrier))
		}
		t.Print("Network, dhcp or static [dhcp]: ")
		reply, err := t.Line()
		if err != nil {
			return fmt.Errorf("ask for the network: %w", err)
		}
		if reply = strings.ToLower(strings.TrimSpace(reply)); reply != "" {
			method = reply
		}
		if method == "dhcp" {
			return nil
		}
		if method == "static" {
			break
		}
		t.Print("Type dhcp or static.\n")
		method = "dhcp"
	}
	a.Network.Source = answer.FromAnswer
	if err := askNIC(t, f, a); err != nil {
		return err
	}
	for _, q := range []question{
		{"network.cidr", "Address with prefix length, like 192.0.2.10/24", "", false, func(a *answer.Answer, s string) { a.Network.CIDR = s }},
		{"network.gateway", "Gateway", "", false, func(a *answer.Answer, s string) { a.Network.Gateway = s }},
		{"network.dns", "DNS server", "", false, func(a *answer.Answer, s string) { a.Network.DNS = strings.Fields(s) }},
	} {
		if err := ask(t, a, q); err != nil {
			return err
		}
	}
	return nil
}

func askNIC(t Terminal, f probe.Facts, a *answer.Answer) error {
	if len(f.NICs) == 0 {
		return errors.New("choose a network card: none was found")
	}
	for {
		t.Print(fmt.Sprintf("Network card [%s]: ", f.NICs[0].Name))
		reply, err := t.Line()
		if err != nil {
			return fmt.Errorf("ask for the network card: %w", err)
		}
		if reply = strings.TrimSpace(reply); reply == "" {
			reply = f.NICs[0].Name
		}
		for _, n := range f.NICs {
			if n.Name == reply {
				a.Network.Filter = map[string]string{"INTERFACE": n.Name}
				return nil
			}
		}
		t.Print("There is no such network card.\n")
	}
}

// Confirm shows the plan and wants the word "yes".
func Confirm(t Terminal, plan string) error {
	t.Print("\n" + plan + "\nType yes to install, anything else to stop: ")
	reply, err := t.Line()
	if err != nil {
		return fmt.Errorf("ask for confirmation: %w", err)
	}
	if strings.TrimSpace(reply) != "yes" {
		return ErrDeclined
	}
	return nil
}
