package netboot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"joist/installer/answer"
	"joist/internal/finding"
)

// AnswerPath is where the server has the answers of installations.
const AnswerPath = "/answer"

// DefaultAnswer is the answer of a folder for machines without one of their own.
const DefaultAnswer = "default.toml"

// Answers are the answer files of a folder, one for each machine by the
// hardware address of one of its network cards (52-54-00-12-34-56.toml), or one
// file for all.
type Answers struct {
	all  []byte
	byID map[string][]byte // hardware address with dashes, in lower case
}

// LoadAnswers reads and checks a file, or all files of a folder.
func LoadAnswers(name string) (Answers, finding.List, error) {
	a := Answers{byID: map[string][]byte{}}
	st, err := os.Stat(name)
	if err != nil {
		return a, nil, fmt.Errorf("read answers: %w", err)
	}
	if !st.IsDir() {
		text, fl, err := loadAnswer(name)
		a.all = text
		return a, fl, err
	}
	list, err := filepath.Glob(filepath.Join(name, "*.toml"))
	if err != nil {
		return a, nil, fmt.Errorf("read answers: %w", err)
	}
	var all finding.List
	for _, f := range list {
		text, fl, err := loadAnswer(f)
		if err != nil {
			return a, all, err
		}
		all = append(all, fl...)
		id, base := strings.ToLower(strings.TrimSuffix(filepath.Base(f), ".toml")), filepath.Base(f)
		switch {
		case base == DefaultAnswer:
			a.all = text
		case !macForm(id):
			all.Stopf("answer-name", f, "call it by the address of a network card, 52-54-00-12-34-56.toml, or "+DefaultAnswer, "the name is no hardware address")
		default:
			a.byID[id] = text
		}
	}
	if len(list) == 0 {
		return a, all, fmt.Errorf("read answers: %s has no file that ends in .toml", name)
	}
	return a, all, nil
}

func loadAnswer(name string) ([]byte, finding.List, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, nil, fmt.Errorf("read an answer: %w", err)
	}
	a, fl := answer.Load(strings.NewReader(string(text)), name)
	if !fl.Stops() {
		fl = append(fl, a.Validate()...)
	}
	return text, fl, nil
}

// macForm reports whether s is 52-54-00-12-34-56.
func macForm(s string) bool {
	if len(s) != 17 {
		return false
	}
	for i, r := range s {
		if (i%3 == 2) != (r == '-') || r != '-' && !strings.ContainsRune("0123456789abcdef", r) {
			return false
		}
	}
	return true
}

// machine is what the installer says of itself when it asks, as far as it
// matters here: the form of Proxmox VE's installer.
type machine struct {
	Cards []struct {
		MAC string `json:"mac"`
	} `json:"network_interfaces"`
}

// choose is the answer for a machine, and the address it was chosen by.
func (a Answers) choose(m machine) (text []byte, by string, err error) {
	for _, c := range m.Cards {
		id := strings.ToLower(strings.ReplaceAll(c.MAC, ":", "-"))
		if t := a.byID[id]; t != nil {
			return t, id, nil
		}
	}
	if a.all == nil {
		return nil, "", fs.ErrNotExist
	}
	return a.all, "default", nil
}

// maxMachine bounds what a machine may say of itself.
const maxMachine = 4 << 20

// serve answers the installer's POST.
func (a Answers) serve(w http.ResponseWriter, r *http.Request, say func(string, ...any)) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "ask by POST, with what the machine is", http.StatusMethodNotAllowed)
		return
	}
	var m machine
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxMachine)).Decode(&m); err != nil {
		http.Error(w, "this is no description of a machine", http.StatusBadRequest)
		return
	}
	text, by, err := a.choose(m)
	if errors.Is(err, fs.ErrNotExist) {
		say("%s asked for an answer: there is none for it, and no %s", r.RemoteAddr, DefaultAnswer)
		http.Error(w, "there is no answer for this machine", http.StatusNotFound)
		return
	}
	say("%s gets the answer %s", r.RemoteAddr, by)
	w.Header().Set("Content-Type", "application/toml")
	w.Header().Set("Cache-Control", "no-store")
	w.Write(text) // an error means that the machine is gone
}
