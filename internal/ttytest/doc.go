// Package ttytest makes terminals for tests of what people see on one.
package ttytest
