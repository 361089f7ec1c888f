// Package supervise keeps services running as package service's table says:
// in dependency order, with readiness, backoff, deadlines and ordered
// stopping. One goroutine owns all state; whatever happens outside (a process
// ends, a timer fires, somebody asks) is a function sent to it. What touches
// the machine is behind Machine, so that the whole can be tested without one.
package supervise

import (
	"context"
	"fmt"
	"time"

	"joist/api/node"
	"joist/system/service"
)

// Machine is where services run.
type Machine interface {
	// Spawn starts the service's process. ended is called once when the
	// process has ended, ready when it says that it is.
	Spawn(s service.Spec, ready func(), ended func(ok bool, how string)) (pid int, err error)
	// Terminate asks the service's process to end.
	Terminate(s service.Spec, pid int)
	// Kill ends everything in the service's cgroup.
	Kill(s service.Spec)
	// After calls f after d, unless the returned function is called before.
	After(d time.Duration, f func()) (stop func())
	Now() time.Time
}

// Supervisor runs services.
type Supervisor struct {
	m     Machine
	say   func(format string, args ...any)
	tick  func() // called every few seconds while the loop turns: feeds the watchdog
	do    chan func()
	order []*svc
	by    map[string]*svc
	down  bool // stopping everything: nothing starts any more
}

type svc struct {
	spec     service.Spec
	state    service.State
	pid      int
	run      int // counts spawns: an event of an earlier process is not for this one
	began    time.Time
	since    time.Time
	restarts int
	quick    int  // failures in a row
	left     bool // a session that a person has left
	err      string
	timer    func()
	watch    []chan struct{}
}

// New returns a supervisor for specs, which are sorted by what they start
// after. say gets one line for each thing that a person should see; tick may
// be nil.
func New(specs []service.Spec, m Machine, say func(string, ...any), tick func()) (*Supervisor, error) {
	sorted, err := service.Order(specs)
	if err != nil {
		return nil, err
	}
	s := &Supervisor{m: m, say: say, tick: tick, do: make(chan func(), 64), by: map[string]*svc{}}
	if s.tick == nil {
		s.tick = func() {}
	}
	for _, spec := range sorted {
		v := &svc{spec: spec, state: service.Stopped, since: m.Now()}
		s.order = append(s.order, v)
		s.by[spec.Name] = v
	}
	return s, nil
}

const tickEvery = 5 * time.Second

// Run turns the loop until ctx ends.
func (s *Supervisor) Run(ctx context.Context) {
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case f := <-s.do:
			f()
		case <-t.C:
			s.tick()
		}
	}
}

// ask runs f in the loop and waits for it.
func (s *Supervisor) ask(f func()) {
	done := make(chan struct{})
	s.do <- func() { f(); close(done) }
	<-done
}

// Start starts the named services; with no name, all.
func (s *Supervisor) Start(names ...string) error { return s.each(service.Start, names) }

// Stop stops the named services.
func (s *Supervisor) Stop(names ...string) error { return s.each(service.Stop, names) }

// Restart stops and starts the named services.
func (s *Supervisor) Restart(names ...string) error { return s.each(service.Restart, names) }

func (s *Supervisor) each(e service.Event, names []string) (err error) {
	s.ask(func() {
		if len(names) == 0 {
			for _, v := range s.order {
				s.event(v, e)
			}
		}
		for _, n := range names {
			v := s.by[n]
			if v == nil {
				err = fmt.Errorf("%s service %q: there is no such service", e, n)
				continue
			}
			if e != service.Stop {
				v.quick = 0
			}
			s.event(v, e)
		}
	})
	return err
}

// Status lists all services in start order.
func (s *Supervisor) Status() []node.Service {
	var out []node.Service
	s.ask(func() {
		for _, v := range s.order {
			out = append(out, node.Service{Name: v.spec.Name, State: string(v.state), PID: v.pid,
				Restarts: v.restarts, Since: v.since.UTC().Format(time.RFC3339), Error: v.err})
		}
	})
	return out
}

// event takes one step of the table.
func (s *Supervisor) event(v *svc, e service.Event) {
	if s.down && e != service.Stop {
		// While everything stops, whatever would start again stays down.
		if step, ok := service.Next(v.state, e); ok && (step.Do == service.Check || step.Do == service.Spawn) {
			e = service.Stop
		}
	}
	step, ok := service.Next(v.state, e)
	if !ok {
		return
	}
	s.enter(v, step.To)
	switch step.Do {
	case service.Check:
		s.check(v)
	case service.Spawn:
		s.spawn(v)
	case service.Later:
		s.later(v)
	case service.Term:
		s.m.Terminate(v.spec, v.pid)
		d := v.spec.StopIn
		if d == 0 {
			d = 10 * time.Second
		}
		s.alarm(v, d)
	case service.Kill:
		if v.state == service.Starting {
			v.err = "not ready in time"
			s.say("service %s is not ready in time and is ended", v.spec.Name)
		} else {
			s.say("service %s does not end and is killed", v.spec.Name)
		}
		s.m.Kill(v.spec)
	case service.Clean:
		s.m.Kill(v.spec)
	case service.Again:
		s.m.Kill(v.spec)
		s.check(v)
	}
}

func (s *Supervisor) enter(v *svc, to service.State) {
	if v.state == to {
		return
	}
	if v.timer != nil {
		v.timer()
		v.timer = nil
	}
	if !to.Alive() {
		v.pid = 0
	}
	v.state, v.since = to, s.m.Now()
	woken := v.watch
	v.watch = nil
	for _, c := range woken {
		select {
		case <-c: // StopAll puts one channel on several services
		default:
			close(c)
		}
	}
	if to.Up() {
		for _, w := range s.order {
			if w.state == service.Waiting {
				s.check(w)
			}
		}
	}
}

// check starts a waiting service when all it starts after is up.
func (s *Supervisor) check(v *svc) {
	for _, name := range v.spec.After {
		if !s.by[name].state.Up() {
			return
		}
	}
	s.event(v, service.DepsReady)
}

func (s *Supervisor) spawn(v *svc) {
	v.run++
	run := v.run
	post := func(f func()) {
		s.do <- func() {
			if v.run == run {
				f()
			}
		}
	}
	v.began = s.m.Now()
	pid, err := s.m.Spawn(v.spec,
		func() { post(func() { s.event(v, service.Ready) }) },
		func(ok bool, how string) { post(func() { s.ended(v, ok, how) }) })
	if err != nil {
		v.err = err.Error()
		s.event(v, service.NoStart)
		return
	}
	v.pid = pid
	if !v.spec.Notify {
		s.event(v, service.Ready)
		return
	}
	d := v.spec.Within
	if d == 0 {
		d = time.Minute
	}
	s.alarm(v, d)
}

// ended is what a process' end means for its service.
func (s *Supervisor) ended(v *svc, ok bool, how string) {
	e := service.Ended
	if v.spec.Once {
		e = service.EndedBad
		if ok {
			e = service.EndedOK
		}
	}
	if v.state == service.Starting || v.state == service.Running {
		if v.err != "not ready in time" {
			v.err = how
		}
		if ok && v.spec.Once {
			v.err = ""
		}
		v.left = v.state == service.Running && v.spec.Session && service.Left(ok, s.m.Now().Sub(v.began))
	}
	s.event(v, e)
}

func (s *Supervisor) later(v *svc) {
	s.m.Kill(v.spec)
	if v.left {
		v.left, v.err, v.quick = false, "", 0
		s.alarm(v, service.SessionPause)
		return
	}
	if service.Lasted(s.m.Now().Sub(v.began)) {
		v.quick = 0
	}
	d := service.Delay(v.quick)
	v.quick++
	v.restarts++
	s.say("service %s: %s; starting again in %v", v.spec.Name, v.err, d)
	s.alarm(v, d)
}

func (s *Supervisor) alarm(v *svc, d time.Duration) {
	if v.timer != nil {
		v.timer()
	}
	state, run := v.state, v.run
	v.timer = s.m.After(d, func() {
		s.do <- func() {
			if v.state == state && v.run == run {
				s.event(v, service.Timeout)
			}
		}
	})
}
