package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
)

// longestSocketFolder leaves room for PostgreSQL's file name in the 107 bytes that a Unix socket's path may have.
const longestSocketFolder = 90

// postgresFolder is where PostgreSQL keeps its data: in .demo, or, where the server could not work there, in a folder
// of the same purpose outside. It cannot when the path is too long for a socket, and, run as another user because
// this one is root, when a folder on the way is closed to others, as /root is.
func (p place) postgresFolder() (string, error) {
	inside := p.file("postgres")
	if len(inside) <= longestSocketFolder && (os.Geteuid() != 0 || openToOthers(p.folder)) {
		return inside, nil
	}
	name := fmt.Sprintf("rackgateway-demo-%x", sha256.Sum256([]byte(p.folder)))[:len("rackgateway-demo-")+12]
	if os.Geteuid() == 0 {
		return filepath.Join("/var/lib", name), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("the path of this folder is too long for PostgreSQL, and there is no home folder: %w", err)
	}
	return filepath.Join(home, ".local", "state", name), nil
}

// openToOthers reports whether everybody may pass through the folder and all above it. A folder that is not there yet
// will be made so.
func openToOthers(folder string) bool {
	for {
		info, err := os.Stat(folder)
		if err == nil && info.Mode().Perm()&0o001 == 0 {
			return false
		}
		if folder == filepath.Dir(folder) {
			return true
		}
		folder = filepath.Dir(folder)
	}
}
