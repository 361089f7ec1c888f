package plan

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"joist/installer/answer"
	"joist/installer/preflight"
	"joist/installer/probe"
	"joist/internal/finding"
)

// provoked are the findings that the tests of this package made the planner
// say, by code.
var provoked = map[string]finding.Finding{}

// made is Make, which remembers what was said.
func made(f probe.Facts, a answer.Answer, img Image, id Identity) (Plan, finding.List) {
	p, fs := Make(f, a, img, id)
	remember(fs)
	return p, fs
}

func remember(fs finding.List) {
	for _, x := range fs {
		if old, ok := provoked[x.Code]; !ok || old.Level < x.Level {
			provoked[x.Code] = x
		}
	}
}

// TestMain compares what was said with the table, when all tests have run: each
// code of the table is provoked, with its level and a cure, and none is said
// that the table lacks.
func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	if flag.Lookup("test.run").Value.String() == "" && flag.Lookup("test.fuzz").Value.String() == "" && code == 0 {
		for _, wrong := range compareTable() {
			fmt.Println("findings:", wrong)
			code = 1
		}
	}
	os.Exit(code)
}

func compareTable() (wrong []string) {
	known := map[string]bool{}
	for _, r := range preflight.Table() {
		known[r.Code] = true
	}
	for _, r := range Findings() {
		known[r.Code] = true
		x, ok := provoked[r.Code]
		switch {
		case !ok:
			wrong = append(wrong, r.Code+" is provoked by no test")
		case x.Level != r.Level:
			wrong = append(wrong, fmt.Sprintf("%s is said as %s, the table has %s", r.Code, x.Level, r.Level))
		case r.When == "" || r.Level != finding.Note && (r.Cure == "" || x.Hint == ""):
			wrong = append(wrong, r.Code+" has no cure")
		}
	}
	for c := range provoked {
		if !known[c] {
			wrong = append(wrong, c+" is said and not in the table")
		}
	}
	return wrong
}
