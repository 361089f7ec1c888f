package fetch

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"joist/installer/answer"
	"joist/installer/nocloud"
	"joist/installer/plan"
	"joist/installer/preflight"
	"joist/internal/finding"
)

func writeRow(b *strings.Builder, code string, level finding.Level, waivable bool, when, cure string) {
	word, w := level.String(), "–"
	if level == finding.Stop {
		word, w = "stop", map[bool]string{true: "yes", false: "no"}[waivable]
	}
	fmt.Fprintf(b, "| `%s` | %s | %s | %s | %s |\n", code, word, w, when, cure)
}

// docs/findings.md is the tables for people.
func TestFindingsDocument(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Findings\n\nMade from the tables of `installer/answer`, `installer/fetch`, `installer/nocloud`,\n`installer/preflight` and `installer/plan` (`go test ./installer/fetch -update`). A finding says the cure\nfor its own case. What they mean together is in [preflight.md](preflight.md).\n")
	begin := func(title string) {
		fmt.Fprintf(&b, "\n## %s\n\n| code | level | waivable | when | cure |\n|---|---|---|---|---|\n", title)
	}
	begin("The answer")
	for _, r := range slices.Concat(Findings(), answer.Findings(), nocloud.Findings()) {
		writeRow(&b, r.Code, r.Level, false, r.When, r.Cure)
	}
	for _, s := range []struct {
		title string
		scope preflight.Scope
		rows  []preflight.Row
	}{
		{"The machine", preflight.Machine, preflight.Table()}, {"Each chosen disk", preflight.Disk, preflight.Table()},
		{"The chosen disks together", preflight.Set, preflight.Table()}, {"The plan", "plan", plan.Findings()},
	} {
		begin(s.title)
		for _, r := range s.rows {
			if r.Scope == s.scope {
				writeRow(&b, r.Code, r.Level, r.Waivable, r.When, r.Cure)
			}
		}
	}
	const name = "../../docs/findings.md"
	if *update {
		if err := os.WriteFile(name, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if have, err := os.ReadFile(name); err != nil || string(have) != b.String() {
		t.Errorf("%s is not what the tables say: go test ./installer/fetch -update", name)
	}
}
