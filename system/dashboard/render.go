// Package dashboard is the picture on a node's consoles: who it is, where its
// API answers, what runs and what went wrong. Render is pure; Run gathers the
// state every two seconds and writes only when the picture changed, on a
// serial line as plain text below the last one.
package dashboard

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	"joist/api/node"
)

// State is all that the picture shows.
type State struct {
	Version  string
	Node     node.Config
	Net      node.NetStatus
	API      node.APIStatus
	Services []node.Service
	Phases   []node.Phase // of the boot
	InitErr  string       // why PID 1 could not be asked
	Disks    string       // what is wrong with the mirror or the pool that /var is on
	Alerts   []node.Alert // what joistd found
	First    node.FirstBoot
	Crashes  string // of the kernel, not looked at yet
	Booted   string // when the kernel started, local time
	CPUs     int
	Load     float64 // one minute
	MemUsed  int64   // bytes
	MemTotal int64
}

// Width and height that fit any console.
const (
	Cols = 80
	Rows = 24
)

// Render draws the picture, lines ending in "\n", at most rows of cols
// characters, ASCII only: fonts and terminals of consoles differ.
func Render(s State, cols, rows int) string {
	cols, rows = max(cols, 40), max(rows, 12)
	p := page{cols: cols}
	p.line("Joist %s", s.Version)
	p.line("%s", strings.Repeat("=", cols-1))
	p.row("Node", name(s))
	p.row("Addresses", addresses(s.Net))
	for _, l := range api(s) {
		p.row(l[0], l[1])
	}
	if f := first(s.First); f != "" {
		p.row("First start", f)
	}
	p.row("Load", fmt.Sprintf("%.1f on %d CPUs, %s of %s memory used", s.Load, s.CPUs, size(s.MemUsed), size(s.MemTotal)))
	p.row("Up since", s.Booted)
	p.line("")
	p.section("Services", services(s))
	if bad := problems(s); len(bad) > 0 {
		p.line("")
		p.section("Problems", bad)
	}
	if room := rows - 1 - 2; len(p.out) > room {
		p.out = append(p.out[:room-1], "  ...")
	}
	p.line("")
	p.line("Press Enter to log in.")
	return strings.Join(p.out, "\n") + "\n"
}

type page struct {
	cols int
	out  []string
}

func (p *page) line(format string, args ...any) {
	s := []byte(fmt.Sprintf(format, args...))
	for i, c := range s {
		if c < ' ' || c > '~' { // nothing that could steer the terminal
			s[i] = '?'
		}
	}
	if len(s) > p.cols-1 {
		s = append(s[:p.cols-4], "..."...)
	}
	p.out = append(p.out, string(s))
}

const label = 13

// row writes a value behind its label and goes on below it when it is long.
func (p *page) row(what, val string) {
	room := p.cols - 1 - label
	for first := true; first || val != ""; first = false {
		part := val
		if len(part) > room {
			cut := strings.LastIndexAny(part[:room], " :")
			if cut < room/2 {
				cut = room - 1
			}
			part = part[:cut+1]
		}
		val = strings.TrimLeft(val[len(part):], " ")
		if !first {
			what = ""
		}
		p.line("%-*s%s", label, what, strings.TrimRight(part, " "))
	}
}

func (p *page) section(title string, lines []string) {
	p.line("%s", title)
	for _, l := range lines {
		p.line("  %s", l)
	}
}

func name(s State) string {
	n := s.Node.Name
	if n == "" {
		return "(not configured)"
	}
	if s.Node.Domain != "" {
		n += "." + s.Node.Domain
	}
	return n
}

func addresses(n node.NetStatus) string {
	if len(n.Addresses) > 0 {
		return strings.Join(n.Addresses, ", ") + " on " + n.Bridge + " (" + n.Method + ")"
	}
	switch {
	case n.Bridge == "":
		return "none yet, the network is being set up"
	case n.Method == "dhcp":
		return "none yet, waiting for a DHCP server on " + n.Link
	}
	return "none yet on " + n.Bridge
}

// first is what the first start waits for, "" when it is over.
func first(j node.FirstBoot) string {
	if j.Ended > 0 {
		return ""
	}
	var out []string
	for _, s := range j.Steps {
		if s.State == "waiting" && s.Detail != "" {
			out = append(out, s.Name+" waits "+s.Detail)
		}
	}
	return strings.Join(out, ", ")
}

func api(s State) [][2]string {
	if s.API.Port == 0 {
		return [][2]string{{"API", "not answering yet"}}
	}
	host := "this-node"
	if a := s.Net.Address(); a.IsValid() {
		host = a.String()
	}
	return [][2]string{
		{"API", "https://" + net.JoinHostPort(host, strconv.Itoa(s.API.Port)) + "  (user root, realm pam)"},
		{"Fingerprint", s.API.Fingerprint},
	}
}

// services lists states, several to a line where all is well.
func services(s State) []string {
	if s.InitErr != "" {
		return []string{"unknown: " + s.InitErr}
	}
	var out []string
	line := ""
	for _, v := range s.Services {
		item := fmt.Sprintf("%-18s", v.Name+" "+mark(v))
		if len(line)+len(item) > 74 {
			out = append(out, strings.TrimRight(line, " "))
			line = ""
		}
		line += item + " "
	}
	return append(out, strings.TrimRight(line, " "))
}

func mark(v node.Service) string {
	if v.State == "running" {
		return "ok"
	}
	return v.State
}

// codeDegraded is joistd's word for what Disks says.
const codeDegraded = "data-degraded"

// problems says what a person should look at: the cause, not every symptom.
func problems(s State) (out []string) {
	for _, p := range s.Phases {
		if p.State == node.PhaseFailed {
			out = append(out, p.Name+": "+p.Error)
		}
	}
	for _, v := range s.Services {
		switch {
		case v.State == "backoff" || v.State == "failed":
			out = append(out, fmt.Sprintf("%s: %s, %d restarts; see %s/%s.log", v.Name, v.Error, v.Restarts, node.LogDir, v.Name))
		case v.Restarts > 0 && v.Error != "":
			out = append(out, fmt.Sprintf("%s was restarted %d times, last because: %s", v.Name, v.Restarts, v.Error))
		}
	}
	if s.Disks != "" {
		out = append(out, s.Disks)
	}
	for _, a := range s.Alerts {
		if a.Code != codeDegraded { // read from the kernel, also while joistd does not run
			out = append(out, a.Text)
		}
	}
	if s.Crashes != "" {
		out = append(out, s.Crashes)
	}
	if s.Net.Error != "" {
		out = append(out, "network: "+s.Net.Error)
	}
	return out
}

func size(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	default:
		return fmt.Sprintf("%d MiB", n>>20)
	}
}
