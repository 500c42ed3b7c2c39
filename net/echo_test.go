//go:build linux

package net

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
)

func TestEchoIsByteExactFromOneByteToFourMegabytes(t *testing.T) {
	sizes := []int{1, 2, 3, 15, 16, 17, 63, 64, 65, 1000, 2047, 2048, 2049, 4095, 4096, 4097, 16383, 16384, 65536, 65537,
		131072, 131073, 262145, 1 << 20, 4 << 20, 5, 4 << 20, 64}
	overVariants(t, func(t *testing.T, v variant) {
		for _, e := range echoes {
			t.Run(e.name, func(t *testing.T) {
				srv := serve(t, v.Options, e.of(t))
				c := srv.dial()
				sum := uint64(0)
				for i, n := range sizes {
					if testing.Short() && v.name != "default" {
						n = (n-1)/32 + 1
					} else if v.slow {
						n = (n-1)/8 + 1
					}
					wantEcho(t, c, payload(uint64(i), n))
					sum += uint64(n)
				}
				_ = c.Close()
				srv.wantCause(io.EOF)
				if st := srv.Stats(); st.BytesReceived != sum || st.BytesSent != sum {
					t.Errorf("stats: %d bytes received and %d sent: want %d of each", st.BytesReceived, st.BytesSent, sum)
				}
			})
		}
	})
}

func TestEchoOfPipelinedRequests(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		for _, e := range echoes {
			t.Run(e.name, func(t *testing.T) {
				srv := serve(t, v.Options, e.of(t))
				total := few(1 << 20)
				if v.slow {
					total = few(1 << 17)
				}
				err := crowd(3, func(i int) error {
					c, err := connect(srv.addr())
					if err != nil {
						return err
					}
					defer c.Close()
					// Requests of all small sizes, many before the first answer.
					rest := payload(uint64(i), total)
					random := rand.New(rand.NewPCG(7, uint64(i)))
					failed := make(chan error, 1)
					go func() {
						for b := rest; len(b) > 0; {
							n := min(len(b), 1+random.IntN(300))
							if _, err := c.Write(b[:n]); err != nil {
								failed <- err
								return
							}
							b = b[n:]
						}
						failed <- c.CloseWrite()
					}()
					got, err := io.ReadAll(c)
					if err = errors.Join(err, <-failed); err != nil {
						return err
					}
					return differ(got, rest)
				})
				if err != nil {
					t.Fatal(err)
				}
			})
		}
	})
}

func TestManyConnectionsAtOnce(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		for _, e := range echoes {
			t.Run(e.name, func(t *testing.T) {
				srv := serve(t, v.Options, e.of(t))
				conns, rounds := few(60), 8
				if v.name == "default" {
					conns = few(500)
				}
				err := crowd(conns, func(i int) error {
					c, err := connect(srv.addr())
					if err != nil {
						return err
					}
					defer c.Close()
					random := rand.New(rand.NewPCG(11, uint64(i)))
					for round := range rounds {
						if err := exchange(c, payload(uint64(i*rounds+round), 1+random.IntN(3000))); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				for range conns {
					srv.wantCause(io.EOF)
				}
			})
		}
	})
}

func TestThousandsOfShortConnections(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		srv := serve(t, v.Options, echoLease(t))
		const workers = 20
		each := few(15)
		if v.name == "default" || v.name == "loops" {
			each = few(150)
		}
		total := workers * each
		err := crowd(workers, func(i int) error {
			for n := range each {
				c, err := connect(srv.addr())
				if err != nil {
					return err
				}
				err = exchange(c, payload(uint64(i*total+n), 100))
				// A reset now and then spares the machine's ports, and is a way to
				// end as good as another.
				if n%2 == 0 {
					_ = c.SetLinger(0)
				}
				if err = errors.Join(err, c.Close()); err != nil {
					return fmt.Errorf("connection %d: %w", n, err)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for range total {
			srv.cause()
		}
		if st := srv.Stats(); st.Accepted != uint64(total) || st.Closed != uint64(total) || st.Connections != 0 {
			t.Errorf("%d connections came: stats say %d accepted, %d closed, %d open", total, st.Accepted, st.Closed, st.Connections)
		}
	})
}

func TestConnectionThatSendsNothing(t *testing.T) {
	overVariants(t, func(t *testing.T, v variant) {
		srv := serve(t, v.Options, echoWrite(t))
		c := srv.dial()
		_ = c.Close()
		srv.wantCause(io.EOF)
	})
}

func TestLoopsShareAPort(t *testing.T) {
	const conns = 200
	for _, loops := range []int{1, 2, 4, 7} {
		t.Run(fmt.Sprint(loops), func(t *testing.T) {
			srv := serve(t, Options{Loops: loops, poison: true}, echoLease(t))
			err := crowd(conns, func(i int) error {
				c, err := connect(srv.addr())
				if err != nil {
					return err
				}
				defer c.Close()
				return exchange(c, payload(uint64(i), 10000))
			})
			if err != nil {
				t.Fatal(err)
			}
			all := srv.LoopStats()
			if len(all) != loops {
				t.Fatalf("stats of %d loops, want %d", len(all), loops)
			}
			sum := uint64(0)
			for i, st := range all {
				// 200 connections miss one of 7 loops by chance once in 10^13 runs.
				if st.Accepted == 0 {
					t.Errorf("loop %d got none of %d connections", i, conns)
				}
				sum += st.Accepted
			}
			if sum != conns {
				t.Errorf("the loops accepted %d connections, want %d", sum, conns)
			}
		})
	}
}
