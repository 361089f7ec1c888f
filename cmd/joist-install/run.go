package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"time"

	"joist/api/node"
	"joist/installer/answer"
	"joist/installer/apply"
	"joist/installer/fetch"
	"joist/installer/plan"
	"joist/installer/preflight"
	"joist/installer/probe"
	"joist/installer/wire"
	"joist/installer/wizard"
	"joist/internal/finding"
	"joist/internal/host"
	"joist/system/cmdline"
)

// execute carries out one command and returns the exit status.
func execute(ctx context.Context, o options) int {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	cs, err := openConsoles(o.consoles)
	if err != nil {
		log.Error("no console", "error", err)
		return exitFailed
	}
	s := &session{o: o, h: realHost(log), m: probe.Real(), out: consoles(cs), net: noNetwork{}}
	opt, err := cmdline.Read()
	if err != nil {
		log.Warn("kernel command line", "error", err)
	}
	s.onNode = opt.Mode == cmdline.Node
	if s.search, s.unclear = fetch.ParseSearch(opt.Answer, opt.AnswerPin); o.facts == "" && opt.Mode != cmdline.Node {
		s.net = &wire.Wire{Log: log} // nobody else uses the machine's cards
	}
	switch o.command {
	case "check":
		return s.check(ctx, os.Stdout, os.Stderr)
	case "plan":
		s.o.planOnly, s.o.unattended = true, true
	case "password", "slot", "boot", "enrol":
		if err := s.rescue(ctx); err != nil {
			fmt.Fprintf(os.Stderr, "joist-install %s: %v\n", o.command, err)
			return exitFailed
		}
		return exitOK
	}
	code, err := s.install(ctx)
	if err != nil {
		log.Error("installation ended", "error", err)
		fmt.Fprintf(s.out, "\nThe installation ended: %v\n", err)
	}
	if code != exitOK {
		fmt.Fprintf(s.out, "Exit status %d (docs/exit-codes.md).\n", code)
		s.rebootOnError(ctx)
	}
	return code
}

// session is one run of the installer.
type session struct {
	o      options
	h      *host.Host
	m      probe.Machine
	out    consoles
	answer answer.Answer
	net    network

	search  fetch.Search // where the kernel's command line has the answer looked for
	unclear finding.List // about that
	onNode  bool         // on a node that is installed
}

// say prints lines on all consoles.
func (s *session) say(format string, args ...any) { fmt.Fprintf(s.out, format+"\n", args...) }

// check prints facts as JSON on stdout and findings on stderr: the machine's,
// which the exit status follows, and those of each disk.
func (s *session) check(ctx context.Context, stdout, stderr io.Writer) int {
	f, err := s.facts(ctx)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitFailed
	}
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitFailed
	}
	fmt.Fprintf(stdout, "%s\n", b)
	look := preflight.Survey
	if s.onNode {
		look = preflight.SurveyNode
	}
	look(f).Write(stderr)
	return status(preflight.Check(f))
}

func status(fs finding.List) int {
	if fs.Stops() {
		return exitFindings
	}
	return exitOK
}

func (s *session) facts(ctx context.Context) (probe.Facts, error) {
	if s.o.facts == "" {
		s.driver(ctx)
		f := s.m.Facts()
		// a USB or RAID controller may need a moment after its driver is in
		for i := 0; i < 20 && (len(preflight.Targets(f)) == 0 || len(f.NICs) == 0); i++ {
			time.Sleep(500 * time.Millisecond)
			f = s.m.Facts()
		}
		for i := 0; i < 20 && plan.MissingInPlace(f) > 0 && f.InPlace.Node == ""; i++ { // so may the other disks of the system
			time.Sleep(500 * time.Millisecond)
			f = s.m.Facts()
		}
		if _, none := s.net.(noNetwork); !none {
			s.raise(ctx, &f)
			s.ask(ctx, &f)
		}
		return f, nil
	}
	var f probe.Facts
	b, err := os.ReadFile(s.o.facts)
	if err == nil {
		err = json.Unmarshal(b, &f)
	}
	if err != nil {
		return f, fmt.Errorf("read facts: %w", err)
	}
	return f, nil
}

func (s *session) install(ctx context.Context) (int, error) {
	f, err := s.facts(ctx)
	if err != nil {
		return exitFailed, err
	}
	if f.InPlace != nil && f.InPlace.Node != "" && !s.o.planOnly {
		return s.startNode(ctx, f)
	}
	if f.InPlace != nil {
		if err := ownMedium(s.h, *f.InPlace); err != nil {
			return exitFailed, err
		}
	}
	img, err := readImage(s.h)
	if err != nil {
		return exitFailed, err
	}
	fmt.Fprintf(s.out, "\nJoist %s installer\n\n", img.Version)
	key := rsaKey()
	person, fs, err := s.getAnswer(ctx, &f, img)
	if err != nil {
		return exitFailed, err
	}
	id, err := plan.NewIdentity(rand.Reader)
	if err != nil {
		return exitFailed, err
	}
	wrong := fs.Stops()
	if !wrong {
		if id.RSAKey, err = key(); err != nil {
			return exitFailed, err
		}
	}
	// what speaks against a wrong answer besides is said with it
	p, more := plan.Make(f, s.answer, img, id)
	for _, x := range append(more, apply.Check(p)...) {
		if !slices.Contains(fs, x) {
			fs.Add(x)
		}
	}
	s.keepReport(p, fs)
	fs.Write(s.out)
	if fs.Stops() && (wrong || p.Result != plan.BootExisting) {
		fmt.Fprint(s.out, "\nNothing was written.\n")
		return exitFindings, nil
	}
	switch {
	case s.o.planOnly:
		fmt.Fprint(s.out, "\n"+p.Describe())
		return exitOK, nil
	case p.Result == plan.BootExisting:
		return s.bootExisting(ctx, p)
	case person != nil && slices.ContainsFunc(fs, func(f finding.Finding) bool { return f.Code == plan.KeyNotEnrolled }):
		return s.enrol(person, img)
	case person != nil:
		if err := wizard.Confirm(person, p.Describe()); err != nil {
			return exitFailed, err
		}
	default:
		fmt.Fprint(s.out, "\n"+p.Describe()+"\n")
	}
	if plan.Early(p.Answer.FirstBoot) {
		if img.Fetched, err = s.program(ctx, p); err != nil {
			return exitFailed, err
		}
		p, _ = plan.Make(f, s.answer, img, id) // the same, with one file more
	}
	if err := apply.Apply(ctx, s.h, p, s.out.sink()); err != nil {
		return exitFailed, err
	}
	fmt.Fprintf(s.out, "\nJoist is installed. Installation %s on /dev/%s.\n", p.InstallationID, p.Disk.Name)
	s.report(ctx, p, f)
	return exitOK, nil
}

// rsaKey makes a key beside what waits for disks, networks and people.
func rsaKey() (wait func() ([]byte, error)) {
	var key []byte
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		key, err = plan.NewRSAKey(rand.Reader)
	}()
	return func() ([]byte, error) {
		<-done
		return key, err
	}
}

// enrol has the next start enrol the module key, and restarts for that. What
// the person answered is asked again then.
func (s *session) enrol(person *console, img plan.Image) (int, error) {
	if err := wizard.Enrol(person, func() (string, error) { return apply.AskForKey(s.h, img.BuildID) }); err != nil {
		return exitFailed, err
	}
	return exitOK, node.WriteFile(s.h.Path(apply.NextFile), 0o644, []byte("reboot\n"))
}

// reportFile is for a support bundle; a node has it from its state volume.
const reportFile = node.RunDir + "/install-report.json"

// keepReport writes plan, answer and findings without secrets.
func (s *session) keepReport(p plan.Plan, fs finding.List) {
	err := node.WriteJSON(s.h.Path(reportFile), 0o600, struct {
		plan.Report
		Findings finding.List `json:"findings"`
	}{plan.Report{Plan: p, Answer: s.answer.String()}, fs})
	if err != nil { // it is not needed to install
		s.h.Log.Warn("cannot keep the report", "error", err)
	}
}

// getAnswer reads the file or asks; person is set when somebody was asked.
func (s *session) getAnswer(ctx context.Context, f *probe.Facts, img plan.Image) (person *console, fs finding.List, err error) {
	if s.o.unattended || s.o.answer != "" {
		if fs = s.unclear; !fs.Stops() {
			var more finding.List
			s.answer, more = s.findAnswer(ctx, s.search, f, img)
			fs = append(fs, more...)
		}
		return nil, fs, nil
	}
	if f.InPlace != nil {
		if fs, ok := s.findSeed(ctx, f, img); ok {
			return nil, fs, nil
		}
	}
	if fs = preflight.Check(*f); fs.Stops() {
		// a person at the wizard accepts what may be waived
		var waive []string
		for _, x := range fs {
			if x.Level == finding.Stop && preflight.Waivable(x.Code) {
				waive = append(waive, x.Code)
			}
		}
		rest, _ := fs.Waive(waive)
		if rest.Stops() {
			return nil, fs, nil
		}
		s.answer.Waive = waive
	}
	c, err := s.out.claim()
	if err != nil {
		return nil, nil, err
	}
	waive := s.answer.Waive
	s.answer, err = wizard.Ask(c, *f)
	s.answer.Waive = append(waive, s.answer.Waive...)
	return c, nil, err
}

// startNode leaves the way to a disk of our own system that starts a node: power
// was lost when the others did not yet, or did no longer. The node brings them to
// its state.
func (s *session) startNode(ctx context.Context, f probe.Facts) (int, error) {
	d, ok := f.Find(f.InPlace.Node)
	if !ok || d.Installation == nil {
		return exitFailed, fmt.Errorf("start the node from disk %s: it holds no system", f.InPlace.Node)
	}
	fmt.Fprintf(s.out, "\nThe disk /dev/%s of this system starts a node, which brings the other disks to its state. Nothing was written.\nWhere it does not start by itself, choose that disk in the firmware's boot menu.\n", d.Name)
	return s.bootExisting(ctx, plan.Plan{Disk: d, Existing: d.Installation, InPlace: f.InPlace})
}

// bootExisting starts the system that is on the disk. When the kernel cannot
// be changed in place, the person is told and the machine restarts.
func (s *session) bootExisting(ctx context.Context, p plan.Plan) (int, error) {
	remove := " Remove the medium."
	if p.InPlace != nil {
		remove = ""
	}
	fmt.Fprintf(s.out, "\nStarting installation %s from /dev/%s.%s\n", p.Existing.ID, p.Disk.Name, remove)
	sys, err := apply.ReadInstalled(s.h, p.Existing.ESP)
	if err == nil {
		s.h.Log.Info("start installed system", "slot", string(sys.Slot), "arguments", sys.Args)
		err = sys.Kexec()
	}
	s.h.Log.Warn("cannot start the installed system directly", "error", err)
	fmt.Fprintf(s.out, "It cannot be started from here (%v).%s The machine restarts in 60 seconds.\n", err, remove)
	if !sleep(ctx, time.Minute) {
		return exitFailed, ctx.Err()
	}
	return exitOK, node.WriteFile(s.h.Path(apply.NextFile), 0o644, []byte("reboot\n"))
}

// errorPause leaves time to read the console before the machine restarts.
const errorPause = 30 * time.Second

// rebootOnError asks PID 1 for a restart when the answer wants one after a
// failure. Without it PID 1 gives a shell.
func (s *session) rebootOnError(ctx context.Context) {
	if !s.o.unattended || s.o.planOnly || !s.answer.Global.RebootOnError {
		return
	}
	fmt.Fprintf(s.out, "The machine restarts in %v (reboot-on-error).\n", errorPause)
	if !sleep(ctx, errorPause) {
		return
	}
	if err := askInit(s.h.Path(node.InitSocket), node.InitRequest{Verb: "reboot"}); err != nil {
		s.h.Log.Error("cannot restart through PID 1", "error", err)
		if err := s.h.Sys.Power(host.Reboot); err != nil {
			s.h.Log.Error("cannot restart", "error", err)
		}
		return
	}
	sleep(ctx, time.Minute) // PID 1 ends us
}

func askInit(socket string, r node.InitRequest) error {
	c, err := net.DialTimeout("unix", socket, 5*time.Second)
	if err != nil {
		return fmt.Errorf("ask PID 1: %w", err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return fmt.Errorf("ask PID 1: %w", err)
	}
	var reply node.InitReply
	if err := json.NewEncoder(c).Encode(r); err != nil {
		return fmt.Errorf("ask PID 1: %w", err)
	}
	if err := json.NewDecoder(c).Decode(&reply); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("ask PID 1: %w", err)
	}
	if !reply.OK {
		return fmt.Errorf("ask PID 1: %s", reply.Error)
	}
	return nil
}

// sleep waits and says whether it was not interrupted.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
