// Package limits shows that a meta cluster needs no more of its members than it says.
package limits
