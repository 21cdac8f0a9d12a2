"""What the executors share that do tasks on other machines: options, what must be alike there, results that come late.
"""
