package supervise

import (
	"context"
	"fmt"
	"time"

	"joist/system/service"
)

// Wait returns when the service is up, or the reason why it is not when ctx
// ends.
func (s *Supervisor) Wait(ctx context.Context, name string) error {
	for {
		var (
			up    bool
			why   string
			again chan struct{}
		)
		s.ask(func() {
			v := s.by[name]
			if v == nil {
				why = "there is no such service"
				return
			}
			if up = v.state.Up(); !up {
				why = string(v.state)
				if v.err != "" {
					why += ", " + v.err
				}
				again = make(chan struct{})
				v.watch = append(v.watch, again)
			}
		})
		if up {
			return nil
		}
		if again == nil {
			return fmt.Errorf("wait for service %q: %s", name, why)
		}
		select {
		case <-again:
		case <-ctx.Done():
			return fmt.Errorf("wait for service %q: %s", name, why)
		}
	}
}

// Follow calls up each time the service has come up, until ctx ends: what a
// service is told once must be told again to its next process.
func (s *Supervisor) Follow(ctx context.Context, name string, up func(context.Context)) {
	told := 0 // the run that was told, as svc.run counts
	for ctx.Err() == nil {
		if s.Wait(ctx, name) != nil {
			return
		}
		var again chan struct{}
		run := 0
		s.ask(func() {
			v := s.by[name]
			again = make(chan struct{})
			v.watch = append(v.watch, again)
			if v.state.Up() {
				run = v.run
			}
		})
		if run != 0 && run != told {
			told = run
			up(ctx)
		}
		select {
		case <-again:
		case <-ctx.Done():
		}
	}
}

// StopAll stops every service, each before those that it starts after, and
// lets none start again. It returns when all have ended or ctx has.
func (s *Supervisor) StopAll(ctx context.Context) {
	s.ask(func() { s.down = true })
	for {
		left := 0
		var again chan struct{}
		s.ask(func() {
			needed := map[string]bool{} // by something that still has a process
			for _, v := range s.order {
				if v.state.Alive() {
					left++
					for _, a := range v.spec.After {
						needed[a] = true
					}
				}
			}
			again = make(chan struct{})
			for i := len(s.order) - 1; i >= 0; i-- {
				v := s.order[i]
				if !needed[v.spec.Name] || !v.state.Alive() {
					s.event(v, service.Stop)
				}
				if v.state.Alive() {
					v.watch = append(v.watch, again)
				}
			}
		})
		if left == 0 {
			return
		}
		select {
		case <-again:
		case <-time.After(time.Second):
		case <-ctx.Done():
			return
		}
	}
}
