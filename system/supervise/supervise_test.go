package supervise

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"joist/api/node"
	"joist/system/service"
)

// fake is a machine whose processes end when the test says so.
type fake struct {
	mu    sync.Mutex
	log   []string
	procs map[string]*process
	fail  map[string]bool
	deaf  map[string]bool // ignores Terminate
}

type process struct {
	ready func()
	ended func(bool, string)
	once  sync.Once
}

func (f *fake) note(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, fmt.Sprintf(format, args...))
}

func (f *fake) Spawn(s service.Spec, ready func(), ended func(bool, string)) (int, error) {
	f.note("spawn %s", s.Name)
	if f.fail[s.Name] {
		return 0, errors.New("no such program")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.procs[s.Name] = &process{ready: ready, ended: ended}
	return 42, nil
}

func (f *fake) end(name string, ok bool) {
	f.mu.Lock()
	p := f.procs[name]
	f.mu.Unlock()
	if p != nil {
		p.once.Do(func() { go p.ended(ok, "exit status 1") })
	}
}

func (f *fake) Terminate(s service.Spec, _ int) {
	f.note("term %s", s.Name)
	if !f.deaf[s.Name] {
		f.end(s.Name, true)
	}
}
func (f *fake) Kill(s service.Spec) { f.end(s.Name, false) }
func (f *fake) After(d time.Duration, g func()) func() {
	t := time.AfterFunc(d, g)
	return func() { t.Stop() }
}
func (f *fake) Now() time.Time { return time.Now() }

func (f *fake) calls() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.log, ", ")
}

func world(t *testing.T, specs []service.Spec, f *fake) *Supervisor {
	t.Helper()
	f.procs = map[string]*process{}
	s, err := New(specs, f, t.Logf, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go s.Run(ctx)
	t.Cleanup(cancel)
	return s
}

func state(s *Supervisor, name string) string {
	for _, v := range s.Status() {
		if v.Name == name {
			return v.State
		}
	}
	return "?"
}

func TestStartsInOrderAndWaitsForReadiness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		s := world(t, []service.Spec{{Name: "b", After: []string{"a"}}, {Name: "a", Notify: true}}, f)
		s.Start()
		synctest.Wait()
		if got := f.calls(); got != "spawn a" || state(s, "b") != "waiting" || state(s, "a") != "starting" {
			t.Fatalf("%s; b is %s", got, state(s, "b"))
		}
		f.procs["a"].ready()
		if err := s.Wait(t.Context(), "b"); err != nil {
			t.Fatal(err)
		}
		s.StopAll(t.Context())
		if got := f.calls(); got != "spawn a, spawn b, term b, term a" {
			t.Error(got)
		}
	})
}

func TestBackoffGrowsAndIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		s := world(t, []service.Spec{{Name: "a"}}, f)
		begun := time.Now()
		s.Start("a")
		for range 4 {
			synctest.Wait()
			f.end("a", false)
			synctest.Wait()
			if state(s, "a") != "backoff" {
				t.Fatal(state(s, "a"))
			}
			if err := s.Wait(t.Context(), "a"); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(begun); d != 1500*time.Millisecond { // 0.1 + 0.2 + 0.4 + 0.8
			t.Errorf("four restarts took %v", d)
		}
		time.Sleep(2 * time.Minute)
		begun = time.Now()
		f.end("a", false)
		synctest.Wait()
		s.Wait(t.Context(), "a")
		if d := time.Since(begun); d != 100*time.Millisecond {
			t.Errorf("restart after a long run took %v", d)
		}
		if st := s.Status()[0]; st.Restarts != 5 || st.Error != "exit status 1" {
			t.Errorf("got %+v", st)
		}
		s.StopAll(t.Context())
	})
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{deaf: map[string]bool{"deaf": true}, fail: map[string]bool{"gone": true}}
		s := world(t, []service.Spec{{Name: "mute", Notify: true, Within: time.Second}, {Name: "deaf"}, {Name: "gone"}}, f)
		s.Start()
		time.Sleep(1010 * time.Millisecond)
		synctest.Wait()
		if i := slices.IndexFunc(s.Status(), func(v node.Service) bool { return v.Name == "mute" && v.Error == "not ready in time" }); i < 0 {
			t.Errorf("%+v", s.Status())
		}
		if got := state(s, "gone"); got != "backoff" {
			t.Error(got)
		}
		begun := time.Now()
		s.StopAll(t.Context())
		if d := time.Since(begun); d != 10*time.Second {
			t.Errorf("stopping took %v", d)
		}
		for _, v := range s.Status() {
			if v.State != "stopped" {
				t.Errorf("%s is %s", v.Name, v.State)
			}
		}
	})
}

func TestRestartOnceAndUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		s := world(t, []service.Spec{{Name: "a"}, {Name: "job", Once: true}}, f)
		s.Start()
		synctest.Wait()
		s.Restart("a")
		f.end("job", true)
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if got := f.calls(); got != "spawn a, spawn job, term a, spawn a" || state(s, "job") != "done" || state(s, "a") != "running" {
			t.Errorf("%s; job %s, a %s", got, state(s, "job"), state(s, "a"))
		}
		if err := s.Stop("nothere"); err == nil {
			t.Error("unknown service stopped")
		}
		s.StopAll(t.Context())
	})
}

func TestLeavingASessionIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		s := world(t, []service.Spec{{Name: "shell", Session: true}}, f)
		s.Start()
		again := func(ok bool, ran, pause time.Duration) {
			t.Helper()
			time.Sleep(ran)
			begun := time.Now()
			f.end("shell", ok)
			synctest.Wait()
			if err := s.Wait(t.Context(), "shell"); err != nil || time.Since(begun) != pause {
				t.Errorf("after %v: up again after %v, %v", ran, time.Since(begun), err)
			}
		}
		again(true, 0, service.SessionPause)
		again(false, 5*time.Second, service.SessionPause) // a wrong password
		if st := s.Status()[0]; st.Restarts != 0 || st.Error != "" {
			t.Errorf("got %+v", st)
		}
		again(false, 0, 100*time.Millisecond)
		again(false, 0, 200*time.Millisecond)
		if st := s.Status()[0]; st.Restarts != 2 || st.Error != "exit status 1" {
			t.Errorf("got %+v", st)
		}
		s.StopAll(t.Context())
	})
}

func TestFollowTellsEveryProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		s := world(t, []service.Spec{{Name: "a", Notify: true}}, f)
		ctx, cancel := context.WithCancel(t.Context())
		var told []time.Duration
		begun := time.Now()
		done := make(chan struct{})
		go func() {
			s.Follow(ctx, "a", func(context.Context) { told = append(told, time.Since(begun)) })
			close(done)
		}()
		s.Start()
		for range 2 {
			time.Sleep(time.Second)
			f.procs["a"].ready()
			time.Sleep(time.Second)
			f.end("a", false)
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
		}
		cancel()
		<-done
		if fmt.Sprint(told) != "[1s 3.1s]" {
			t.Errorf("told at %v", told)
		}
		s.StopAll(t.Context())
	})
}
