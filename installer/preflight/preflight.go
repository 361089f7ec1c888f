// Package preflight decides from facts whether a machine can become, or go on
// being, a node. The checks are one table: code, what it looks at, level,
// condition, sentence and cure. A check that stops can be waived by code in
// the answer file when waiving it leaves something that works.
// docs/findings.md is this table for people.
package preflight

import (
	"slices"

	"joist/installer/probe"
	"joist/internal/finding"
)

// Limits.
const (
	MinDisk = 20_000_000_000 // 20 GB as disk makers count
	// MinMemory is 2 GiB. MemoryAllowance of it may be missing from what the
	// machine reports: firmware tables, integrated graphics and, where the
	// firmware's map is not exported, the kernel's own image.
	MinMemory       = 2 << 30
	MemoryAllowance = 128 << 20
	// MinSpeed is the slowest link in Mbit/s that is not warned about.
	MinSpeed = 100
	// MaxSkew is how far the clock may be off before it is said, in seconds.
	MaxSkew = 60
	// WornAt is the share of the rated writes in per cent that is warned about.
	WornAt = 80
)

// Scope is what a check looks at.
type Scope string

// Scopes.
const (
	Machine Scope = "machine" // once
	Disk    Scope = "disk"    // every chosen disk
	Set     Scope = "disks"   // the chosen disks together, when there are several
)

// Row is one line of the table, for documentation and reports.
type Row struct {
	Code     string        `json:"code"`
	Scope    Scope         `json:"scope"`
	Level    finding.Level `json:"level"`
	Waivable bool          `json:"waivable"`
	When     string        `json:"when"`
	Cure     string        `json:"cure,omitempty"`
}

// check is a row with its condition: one text per case found, none when all
// is well. ds are the disks of its scope.
type check struct {
	Row
	hit func(f probe.Facts, ds []probe.Disk) []string
}

// unknown says why a check of the machine has no answer, "" when it has one.
func unknown(code string, f probe.Facts) string {
	if code == "clock-skew" && f.Reference == nil {
		return f.NoReference
	}
	return ""
}

// Table lists every check.
func Table() []Row {
	var out []Row
	for _, c := range table() {
		out = append(out, c.Row)
	}
	return out
}

func table() []check {
	return append(append(machineChecks(), diskChecks()...), setChecks()...)
}

// Waivable says whether a finding of that code may be waived.
func Waivable(code string) bool {
	for _, c := range table() {
		if c.Code == code {
			return c.Waivable
		}
	}
	return false
}

// Targets lists the disks that one could install on.
func Targets(f probe.Facts) []probe.Disk {
	var out []probe.Disk
	for _, d := range f.Disks {
		if !d.Medium && !d.ReadOnly {
			out = append(out, d)
		}
	}
	return out
}

// run applies the checks of one scope.
func run(scope Scope, path string, f probe.Facts, ds []probe.Disk) finding.List {
	var out finding.List
	for _, c := range table() {
		if c.Scope != scope {
			continue
		}
		for _, text := range c.hit(f, ds) {
			out.Add(finding.Finding{Level: c.Level, Code: c.Code, Path: path, Text: text, Hint: c.Cure})
		}
	}
	return out
}

// Check looks at a machine. It is pure.
func Check(f probe.Facts) finding.List { return run(Machine, "machine", f, nil) }

// Survey looks at a machine and at each disk in it, of which none is chosen yet,
// but the medium. Whether the machine will do is Check's to say: what stops at a
// disk only keeps that one from being chosen.
func Survey(f probe.Facts) finding.List { return survey(f, func(string) bool { return false }) }

// SurveyNode does so on a running node, whose disks are in use.
func SurveyNode(f probe.Facts) finding.List { return survey(f, beforeOnly) }

func survey(f probe.Facts, without func(code string) bool) finding.List {
	fs := Check(f)
	for _, d := range f.Disks {
		if !d.Medium {
			fs = append(fs, Target(f, d)...)
		}
	}
	return slices.DeleteFunc(fs, func(x finding.Finding) bool { return without(x.Code) })
}

// Target looks at one disk that was chosen.
func Target(f probe.Facts, d probe.Disk) finding.List {
	return run(Disk, "/dev/"+d.Name, f, []probe.Disk{d})
}

// Members looks at disks that shall carry one system together.
func Members(f probe.Facts, ds []probe.Disk) finding.List {
	if len(ds) < 2 {
		return nil
	}
	return run(Set, "disks", f, ds)
}
