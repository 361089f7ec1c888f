package plan

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"joist/installer/preflight"
	"joist/internal/finding"
)

// Every code that the package's text holds is in the table and the other way
// round, and each is provoked by a test.
func TestFindingsTable(t *testing.T) {
	said, tests := map[string]bool{}, ""
	re := regexp.MustCompile(`(?:(?:Stopf|Warnf|Notef)\(|Code: )"([a-z0-9-]+)"`)
	files, _ := filepath.Glob("*.go")
	goldens, _ := filepath.Glob("testdata/*.golden")
	for _, n := range append(files, goldens...) {
		b, err := os.ReadFile(n)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(n, ".go") || n == "plan_test.go" {
			tests += string(b)
			continue
		}
		for _, m := range re.FindAllStringSubmatch(string(b), -1) {
			said[m[1]] = true
		}
	}
	for _, r := range Findings() {
		if !said[r.Code] {
			t.Errorf("%s is in the table and nowhere said", r.Code)
		}
		delete(said, r.Code)
		if !strings.Contains(tests, r.Code) {
			t.Errorf("%s is provoked by no test", r.Code)
		}
	}
	for c := range said {
		t.Errorf("%s is said and not in the table", c)
	}
}

// docs/findings.md is the tables for people.
func TestFindingsDocument(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Findings\n\nMade from the tables of `installer/preflight` and `installer/plan`\n(`go test ./installer/plan -update`). What they mean together is in\n[preflight.md](preflight.md).\n")
	sections := []struct {
		title string
		scope preflight.Scope
		rows  []preflight.Row
	}{
		{"The machine", preflight.Machine, preflight.Table()}, {"Each chosen disk", preflight.Disk, preflight.Table()},
		{"The chosen disks together", preflight.Set, preflight.Table()}, {"The plan", "plan", Findings()},
	}
	for _, s := range sections {
		fmt.Fprintf(&b, "\n## %s\n\n| code | level | waivable | when | cure |\n|---|---|---|---|---|\n", s.title)
		for _, r := range s.rows {
			if r.Scope != s.scope {
				continue
			}
			level, waivable, cure := r.Level.String(), "–", r.Cure
			if r.Level == finding.Stop {
				level, waivable = "stop", map[bool]string{true: "yes", false: "no"}[r.Waivable]
			}
			if s.scope == "plan" {
				cure = "said with the finding"
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", r.Code, level, waivable, r.When, cure)
		}
	}
	const name = "../../docs/findings.md"
	if *update {
		if err := os.WriteFile(name, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if have, err := os.ReadFile(name); err != nil || string(have) != b.String() {
		t.Errorf("%s is not what the tables say: go test ./installer/plan -update", name)
	}
}
