package squashfs

import (
	"context"
	"iter"

	"golang.org/x/sync/errgroup"
)

// inOrder applies f to the values of in on several goroutines and hands the
// results to out in the order of in, from one goroutine. At most window values
// are between in and out, which bounds the memory they hold.
func inOrder[T, R any](ctx context.Context, workers, window int, in iter.Seq[T], f func(T) (R, error), out func(R) error) error {
	type slot struct {
		v    T
		r    R
		err  error
		done chan struct{}
	}
	g, ctx := errgroup.WithContext(ctx)
	work, order := make(chan *slot), make(chan *slot, window)
	g.Go(func() error {
		defer close(work)
		defer close(order)
		for v := range in {
			s := &slot{v: v, done: make(chan struct{})}
			for _, to := range []chan *slot{order, work} {
				select {
				case to <- s:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}
		return nil
	})
	for range workers {
		g.Go(func() error {
			for s := range work {
				s.r, s.err = f(s.v)
				close(s.done)
			}
			return nil
		})
	}
	g.Go(func() error {
		for s := range order {
			select {
			case <-s.done:
			case <-ctx.Done():
				return ctx.Err()
			}
			if s.err != nil {
				return s.err
			}
			if err := out(s.r); err != nil {
				return err
			}
		}
		return nil
	})
	return g.Wait()
}
