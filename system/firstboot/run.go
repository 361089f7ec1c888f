package firstboot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"joist/api/node"
	"joist/internal/run"
)

// Boot is the first start on a machine, or in a folder.
type Boot struct {
	Root string // "/"
	Run  run.Runner
	Now  func() time.Time
	// Look says how a step is: for those that need more than a look at files.
	Look func(ctx context.Context, step string) Seen
	// Fetch gets the program.
	Fetch func(ctx context.Context, r node.FirstBootRequest) ([]byte, error)
	Say   func(line string)
	Every time.Duration
}

// ProgramTime is how long the program may take.
const ProgramTime = time.Hour

const (
	maxOutput = 256 << 10 // of what it writes; the rest is counted
)

// Over says whether the first start of the node below root has ended.
func Over(root string) bool {
	j, err := Load(root)
	c, cerr := node.Load(root)
	return err == nil && cerr == nil && j.Ended > 0 && j.Installation == c.InstallationID
}

// HoldsNetwork says whether the network of the node below root is to wait for
// the program: it is to run before it, and has not ended. What cannot be read
// holds nothing up, so that the node can be reached and looked at.
func HoldsNetwork(root string) bool {
	c, err := node.Load(root)
	if err != nil {
		return false
	}
	r, err := (&Boot{Root: root}).request()
	if err != nil || r == nil || r.Ordering != node.OrderingBefore {
		return false
	}
	j, err := Load(root)
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	return err == nil && (j.Installation != c.InstallationID || state(j, Program) == Waiting)
}

// Load reads the journal.
func Load(root string) (node.FirstBoot, error) {
	var j node.FirstBoot
	b, err := os.ReadFile(filepath.Join(root, node.FirstBootState))
	if err == nil {
		err = json.Unmarshal(b, &j)
	}
	if err != nil {
		return j, fmt.Errorf("read journal of the first start: %w", err)
	}
	return j, nil
}

// Settle takes what has failed as dealt with, once the first start is over, and
// erases the program.
func Settle(root string, now time.Time) error {
	j, err := Load(root)
	if err != nil {
		return err
	}
	if j.Ended == 0 {
		return errors.New("the first start is not over")
	}
	for i, s := range j.Steps {
		if s.State == Failed {
			j.Steps[i].State, j.Steps[i].Time = Done, now.Unix()
			j.Steps[i].Detail = "dealt with by a person; it was: " + s.Detail
		}
	}
	b := &Boot{Root: root}
	if err := os.Remove(b.path(node.ProgramFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("erase the program: %w", err)
	}
	return b.save(j)
}

func (b *Boot) path(name string) string { return filepath.Join(b.Root, name) }

func (b *Boot) save(j node.FirstBoot) error {
	if err := node.WriteJSON(b.path(node.FirstBootState), 0o644, j); err != nil {
		return fmt.Errorf("write journal of the first start: %w", err)
	}
	return nil
}

// Carry goes through the steps until all are over or ctx ends.
func (b *Boot) Carry(ctx context.Context) error {
	if err := os.MkdirAll(b.path(node.FirstBootDir), 0o700); err != nil {
		return fmt.Errorf("begin the first start: %w", err)
	}
	c, err := node.Load(b.Root)
	if err != nil {
		return err
	}
	before, err := Load(b.Root)
	// a journal of another installation lies where its data were kept
	if errors.Is(err, fs.ErrNotExist) || err == nil && before.Installation != c.InstallationID {
		before = New(b.Now().Unix())
		before.Installation = c.InstallationID
		err = b.save(before)
	}
	if err != nil {
		return err
	}
	for {
		f, err := b.facts(ctx)
		if err != nil {
			return err
		}
		j, act := Next(before, f, b.Now().Unix())
		if j, err = b.act(ctx, j, act, f); err != nil {
			return err
		}
		if !slices.Equal(j.Steps, before.Steps) || j.Ended != before.Ended {
			if err := b.save(j); err != nil {
				return err
			}
			b.tell(before, j)
		}
		before = j
		if act == Nothing || j.Ended > 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(b.Every):
		}
	}
}

func (b *Boot) tell(before, now node.FirstBoot) {
	for i, s := range now.Steps {
		if i >= len(before.Steps) || before.Steps[i].State != s.State {
			b.Say(s.Name + ": " + s.State + map[bool]string{true: " (" + s.Detail + ")"}[s.Detail != ""])
		}
	}
}

func (b *Boot) act(ctx context.Context, j node.FirstBoot, act Action, f Facts) (node.FirstBoot, error) {
	switch act {
	case RunProgram:
		j = Began(j, b.Now().Unix())
		if err := b.save(j); err != nil {
			return j, err
		}
		err := b.program(ctx, *f.Request)
		if ctx.Err() != nil {
			return j, nil // the next start says that it was cut
		}
		return Ran(j, err, b.Now().Unix()), nil
	case EraseAll:
		if err := b.erase(j); err != nil {
			return j, err
		}
		return Erased(j, b.Now().Unix()), nil
	}
	return j, nil
}

// facts looks at files, and asks Look for the rest.
func (b *Boot) facts(ctx context.Context) (f Facts, err error) {
	f = Facts{Seen: map[string]Seen{}}
	for step, files := range map[string][]string{
		Identity:     {node.ConfigFile, node.HostIDFile},
		Certificates: {node.TLSDir + "/node.crt", node.TLSDir + "/node.key"},
	} {
		for _, name := range files {
			if st, err := os.Stat(b.path(name)); err != nil || st.Size() == 0 {
				f.Seen[step] = Seen{Waits: "for " + name}
			}
		}
	}
	for _, step := range []string{HostKeys, Network, Storage, Cluster} {
		f.Seen[step] = b.Look(ctx, step)
	}
	f.Request, err = b.request()
	return f, err
}

// request is what was left to be run, nil for nothing.
func (b *Boot) request() (*node.FirstBootRequest, error) {
	text, err := os.ReadFile(b.path(node.FirstBootFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var r node.FirstBootRequest
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		return nil, fmt.Errorf("read what the first start is to run: %w", err)
	}
	return &r, nil
}

// program runs it, fetched before where the installer did not leave it. What it
// writes goes to the log.
func (b *Boot) program(ctx context.Context, r node.FirstBootRequest) error {
	if r.URL != "" {
		text, err := b.Fetch(ctx, r)
		if err != nil {
			return err
		}
		if err := node.WriteFile(b.path(node.ProgramFile), 0o700, text); err != nil {
			return fmt.Errorf("keep the program: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, ProgramTime)
	defer cancel()
	written, lost := 0, 0
	_, err := b.Run.Run(ctx, run.Cmd{Path: b.path(node.ProgramFile), Dir: "/", Line: func(l string) {
		if written += len(l) + 1; written > maxOutput {
			lost++
			return
		}
		b.Say("program: " + l)
	}})
	if lost > 0 {
		b.Say(fmt.Sprintf("program: %d more lines were not kept", lost))
	}
	switch code := run.ExitCode(err); {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("the program did not end within %v", ProgramTime)
	case code > 0:
		return fmt.Errorf("the program ended with status %d; see %s/firstboot.log", code, node.LogDir)
	default:
		return fmt.Errorf("run the program: %w", err)
	}
}

// erase removes what was left for the first start. Its address may hold a
// secret; a program that failed stays.
func (b *Boot) erase(j node.FirstBoot) error {
	names := []string{node.FirstBootFile}
	if j.Program != nil && j.Program.Error == "" {
		names = append(names, node.ProgramFile)
	}
	for _, name := range names {
		if err := os.Remove(b.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("erase %s: %w", name, err)
		}
	}
	return nil
}
