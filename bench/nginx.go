package main

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// nginxServer serves by one worker. The flags of its entry are lines of its
// configuration.
func nginxServer(name, what string, lines ...string) server {
	return server{name: name, what: what, program: "nginx", without: "install it (on Debian, 'apt-get install --no-install-recommends nginx'; it need not run)",
		root: true, foreign: startNginx, flags: lines}
}

// startNginx writes a configuration in which nothing stands in the way of speed, into a
// directory where nginx finds and leaves everything.
func startNginx(s server, bins *binaries, addr string) ([]string, error) {
	prefix := filepath.Join(bins.dir, "nginx")
	if err := os.MkdirAll(prefix, 0o755); err != nil {
		return nil, err
	}
	config, err := nginxConfig(prefix, bins.root(), addr, s.flags)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(prefix, "nginx.conf")
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		return nil, err
	}
	return []string{"-e", "stderr", "-p", prefix, "-c", path}, nil
}

// nginxFiles is the most files that nginx keeps open for those who ask again.
const nginxFiles = 16384

func nginxConfig(prefix, root, addr string, lines []string) (string, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return "", fmt.Errorf("limit of open files: %w", err)
	}
	open := min(limit.Max, 1<<20)
	as := ""
	if os.Geteuid() == 0 {
		// Else the worker would be somebody who may not look into our directory.
		u, err := user.Current()
		if err != nil {
			return "", err
		}
		g, err := user.LookupGroupId(u.Gid)
		if err != nil {
			return "", err
		}
		as = fmt.Sprintf("user %s %s;\n", u.Username, g.Name)
	}
	var temporary strings.Builder
	for _, what := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&temporary, "\t%s_temp_path %q;\n", what, filepath.Join(prefix, what))
	}
	return fmt.Sprintf(`daemon off;
worker_processes 1;
worker_rlimit_nofile %d;
pid %q;
error_log stderr warn;
%sevents { worker_connections 4096; }
http {
%s	access_log off;
	types { image/jpeg jpg; }
	default_type application/octet-stream;
	sendfile on;
	tcp_nopush on;
	open_file_cache max=%d inactive=60s;
	keepalive_timeout 1h;
	keepalive_requests 1000000000;
	%s
	server {
		listen %s;
		root %q;
	}
}
`, open, filepath.Join(prefix, "nginx.pid"), as, temporary.String(), min(nginxFiles, open/2), strings.Join(lines, "\n\t"), addr, root), nil
}
