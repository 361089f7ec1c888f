package preflight

import (
	"slices"
	"time"

	"joist/installer/probe"
	"joist/internal/finding"
)

// Results of a report.
const (
	Fit   = "fit"
	Unfit = "unfit"
)

// Unknown is the outcome of a check whose question could not be answered.
const Unknown = "unknown"

// Checked is one check of a report with what it found.
type Checked struct {
	Row
	Outcome string   `json:"outcome"` // "ok", "unknown", or the level of what was found after waiving
	Waived  bool     `json:"waived,omitempty"`
	Found   []string `json:"found,omitempty"`
}

// Report is what programs read: every check, those that found nothing too.
type Report struct {
	Time   time.Time `json:"time"`
	Result string    `json:"result"`
	Disks  []string  `json:"disks,omitempty"`
	Checks []Checked `json:"checks"`
}

// beforeOnly are checks that ask whether a disk may be installed on. Those of a
// running node are in use, and belong to what it stores its data in.
func beforeOnly(code string) bool {
	return code == "disk-in-use" || code == "disk-is-medium" || code == "disk-pool-member"
}

// MakeReport checks the machine and the given disks, with waivers. used are the
// same disks, each as large as what is used of it: so they are compared.
func MakeReport(f probe.Facts, ds, used []probe.Disk, waive []string) Report {
	return report(f, ds, used, waive, func(string) bool { return false })
}

// MakeNodeReport does so on a running node, whose system is on these disks.
func MakeNodeReport(f probe.Facts, ds, used []probe.Disk, waive []string) Report {
	return report(f, ds, used, waive, beforeOnly)
}

func report(f probe.Facts, ds, used []probe.Disk, waive []string, without func(code string) bool) Report {
	fs := Check(f)
	r := Report{Time: f.Time, Result: Fit}
	for _, d := range ds {
		fs = append(fs, Target(f, d)...)
		r.Disks = append(r.Disks, d.Name)
	}
	fs = append(fs, Members(f, used)...)
	fs = slices.DeleteFunc(fs, func(x finding.Finding) bool { return without(x.Code) })
	var codes []string
	for _, c := range waive {
		if Waivable(c) {
			codes = append(codes, c)
		}
	}
	before := fs
	fs, _ = fs.Waive(codes)
	seen := map[string]bool{}
	for _, row := range Table() {
		if without(row.Code) || seen[row.Code] { // disk-too-small is a row of machine and of disk
			continue
		}
		seen[row.Code] = true
		c := Checked{Row: row, Outcome: "ok"}
		worst := finding.Note
		for i, x := range fs {
			if x.Code == row.Code {
				worst = max(worst, x.Level)
				c.Outcome = worst.String()
				c.Waived = c.Waived || before[i].Level != x.Level
				c.Found = append(c.Found, x.Path+": "+x.Text)
			}
		}
		if why := unknown(row.Code, f); why != "" && len(c.Found) == 0 {
			c.Outcome, c.Found = Unknown, []string{"machine: " + why}
		}
		r.Checks = append(r.Checks, c)
	}
	if fs.Stops() {
		r.Result = Unfit
	}
	return r
}
