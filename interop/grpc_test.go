//go:build linux

package interop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// echoService is what a .proto file would be compiled to, by hand: a unary call and the
// three kinds of streams, all of bytes.
var echoService = grpc.ServiceDesc{
	ServiceName: "ringnet.Echo",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Unary", Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		in := new(wrapperspb.BytesValue)
		if err := decode(in); err != nil {
			return nil, err
		}
		return in, nil
	}}},
	Streams: []grpc.StreamDesc{
		// Each message comes back.
		{StreamName: "Both", ServerStreams: true, ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
			for {
				in := new(wrapperspb.BytesValue)
				if err := s.RecvMsg(in); err != nil {
					if errors.Is(err, io.EOF) {
						return nil
					}
					return err
				}
				if err := s.SendMsg(in); err != nil {
					return err
				}
			}
		}},
		// One message asks for a hundred.
		{StreamName: "Server", ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
			in := new(wrapperspb.BytesValue)
			if err := s.RecvMsg(in); err != nil {
				return err
			}
			for i := range 100 {
				if err := s.SendMsg(wrapperspb.Bytes(in.Value[:i*len(in.Value)/100])); err != nil {
					return err
				}
			}
			return nil
		}},
		// All messages come back as one.
		{StreamName: "Client", ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
			var all []byte
			for {
				in := new(wrapperspb.BytesValue)
				err := s.RecvMsg(in)
				if errors.Is(err, io.EOF) {
					return s.SendMsg(wrapperspb.Bytes(all))
				}
				if err != nil {
					return err
				}
				all = append(all, in.Value...)
			}
		}},
	},
}

func TestGRPC(t *testing.T) {
	engines(t, func(t *testing.T, p *port) {
		srv := grpc.NewServer()
		srv.RegisterService(&echoService, nil)
		ended := make(chan error, 1)
		go func() { ended <- srv.Serve(p.h2) }()
		defer func() {
			srv.GracefulStop()
			if err := <-ended; err != nil {
				t.Errorf("the server of gRPC ended with %v", err)
			}
		}()
		conn, err := grpc.NewClient(p.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		t.Run("unary", func(t *testing.T) {
			crowd(t, 16, func(i int) error {
				for n := range 10 {
					in, out := wrapperspb.Bytes(payload(uint64(i*100+n), 1<<(2*n))), new(wrapperspb.BytesValue)
					if err := conn.Invoke(ctx, "/ringnet.Echo/Unary", in, out); err != nil {
						return err
					}
					if err := differ(out.Value, in.Value); err != nil {
						return err
					}
				}
				return nil
			})
		})
		t.Run("both ways", func(t *testing.T) {
			crowd(t, 8, func(i int) error {
				s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/ringnet.Echo/Both")
				if err != nil {
					return err
				}
				const messages = 200
				go func() {
					for n := range messages {
						if s.SendMsg(wrapperspb.Bytes(payload(uint64(i*1000+n), 37*n))) != nil {
							return // which receiving tells
						}
					}
					_ = s.CloseSend()
				}()
				for n := range messages {
					out := new(wrapperspb.BytesValue)
					if err := s.RecvMsg(out); err != nil {
						return fmt.Errorf("message %d: %w", n, err)
					}
					if err := differ(out.Value, payload(uint64(i*1000+n), 37*n)); err != nil {
						return fmt.Errorf("message %d: %w", n, err)
					}
				}
				if err := s.RecvMsg(new(wrapperspb.BytesValue)); !errors.Is(err, io.EOF) {
					return fmt.Errorf("the end: %w", err)
				}
				return nil
			})
		})
		t.Run("from the server", func(t *testing.T) {
			s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/ringnet.Echo/Server")
			if err != nil {
				t.Fatal(err)
			}
			in := payload(5, 10_000)
			if err := errors.Join(s.SendMsg(wrapperspb.Bytes(in)), s.CloseSend()); err != nil {
				t.Fatal(err)
			}
			for i := range 100 {
				out := new(wrapperspb.BytesValue)
				if err := s.RecvMsg(out); err != nil {
					t.Fatal(err)
				}
				if err := differ(out.Value, in[:i*len(in)/100]); err != nil {
					t.Fatal(err)
				}
			}
		})
		t.Run("from the client", func(t *testing.T) {
			s, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, "/ringnet.Echo/Client")
			if err != nil {
				t.Fatal(err)
			}
			var all []byte
			for i := range 100 {
				part := payload(uint64(i), 100*i)
				all = append(all, part...)
				if err := s.SendMsg(wrapperspb.Bytes(part)); err != nil {
					t.Fatal(err)
				}
			}
			out := new(wrapperspb.BytesValue)
			if err := errors.Join(s.CloseSend(), s.RecvMsg(out)); err != nil {
				t.Fatal(err)
			}
			if err := differ(out.Value, all); err != nil {
				t.Error(err)
			}
		})
		// A call that is given up ends alone.
		short, stop := context.WithTimeout(ctx, time.Millisecond)
		defer stop()
		s, err := conn.NewStream(short, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/ringnet.Echo/Both")
		if err == nil {
			err = s.RecvMsg(new(wrapperspb.BytesValue))
		}
		if err == nil {
			t.Error("a call is answered after its deadline")
		}
		out := new(wrapperspb.BytesValue)
		if err := conn.Invoke(ctx, "/ringnet.Echo/Unary", wrapperspb.Bytes([]byte("on")), out); err != nil || string(out.Value) != "on" {
			t.Errorf("after that: %q, %v", out.Value, err)
		}
	})
}
